// The check of a number in a configuration.
#pragma once

#include <stdexcept>
#include <string>

namespace native {

// Throws std::invalid_argument "<rule>, not <value>" unless the value is valid.
inline void require(bool valid, const char* rule, double value) {
    if (!valid) throw std::invalid_argument(std::string(rule) + ", not " + std::to_string(value));
}

}  // namespace native
