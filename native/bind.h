// Parts of bindings.
#pragma once

#include <cstdint>

// A tensor's address as Python passes it: an integer costs a fiftieth of converting the tensor.
template <class T>
T* at(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}
