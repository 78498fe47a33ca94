from gistrec.testing.memories import MemoryTests


class TestFull(MemoryTests):
    spec = "full()"
