// One source, several instruction sets: a kernel file is compiled once for each, in a namespace of
// that name, and calls go to the best that the processor has.
#pragma once

#include <cstdlib>
#include <cstring>

#ifdef GISTREC_HAS_avx512
#define GISTREC_DECLARE(type, name, arguments)      \
    namespace portable { type name arguments; }     \
    namespace avx2 { type name arguments; }         \
    namespace avx512 { type name arguments; }
#define GISTREC_PICK(name)                                                       \
    (gistrec::level() == 2 ? gistrec::avx512::name                               \
                           : gistrec::level() == 1 ? gistrec::avx2::name : gistrec::portable::name)
#else
#define GISTREC_DECLARE(type, name, arguments) \
    namespace portable { type name arguments; }
#define GISTREC_PICK(name) gistrec::portable::name
#endif

namespace gistrec {

// 2: AVX-512 with VNNI and BF16, 1: AVX2 with FMA and F16C, 0: what every processor has.
// GISTREC_ISA=portable|avx2 asks for less than there is.
inline int level() {
#ifdef GISTREC_HAS_avx512
    static const int found = [] {
        __builtin_cpu_init();
        int best = 0;
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
            __builtin_cpu_supports("pclmul"))
            best = 1;
        if (best && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16"))
            best = 2;
        const char* asked = std::getenv("GISTREC_ISA");
        if (asked && !std::strcmp(asked, "portable")) return 0;
        if (asked && !std::strcmp(asked, "avx2") && best > 1) return 1;
        return best;
    }();
    return found;
#else
    return 0;
#endif
}

}  // namespace gistrec
