// What the C++ tests check with: failures are printed and counted, and the count is the exit status.
#pragma once

#include <cstdio>
#include <stdexcept>

inline int failures = 0;

inline void expect(bool condition, const char* what) {
    if (condition) return;
    std::fprintf(stderr, "FAILED: %s\n", what);
    ++failures;
}

// Whether the call throws std::invalid_argument.
inline bool raises(auto&& call) {
    try {
        call();
    } catch (const std::invalid_argument&) {
        return true;
    }
    return false;
}
