#include "ensemble_dispatch.h"

#include <array>
#include <stdexcept>

namespace native {
namespace {

struct Choice {
    const Variant* variant;
    bool CpuFeatures::* feature;  // null: always there
};

// Best first.
constexpr std::array<Choice, 5> kChoices = {{
    {&amx_variant, &CpuFeatures::amx_bf16},
    {&avx512bf16_variant, &CpuFeatures::avx512bf16},
    {&avx512_variant, &CpuFeatures::avx512},
    {&avx2_variant, &CpuFeatures::avx2},
    {&scalar_variant, nullptr},
}};

bool available(const Choice& choice, const CpuFeatures& cpu) {
    return choice.feature == nullptr || cpu.*choice.feature;
}

bool fits(const Variant& variant, Precision precision) {
    return precision == Precision::automatic || precision == variant.precision;
}

const Variant& forced_variant(Precision precision, const std::string& isa, const CpuFeatures& cpu) {
    for (const Choice& choice : kChoices) {
        if (isa != choice.variant->name) continue;
        if (!available(choice, cpu))
            throw std::invalid_argument("this machine does not offer isa '" + isa + "'");
        if (!fits(*choice.variant, precision))
            throw std::invalid_argument("isa '" + isa + "' does not compute in the precision asked for");
        return *choice.variant;
    }
    throw std::invalid_argument("isa must be scalar, avx2, avx512, avx512bf16 or amx, not '" + isa + "'");
}

}  // namespace

const Variant& choose_variant(Precision precision, const std::optional<std::string>& isa,
                              const CpuFeatures& cpu) {
    if (isa.has_value()) return forced_variant(precision, *isa, cpu);
    for (const Choice& choice : kChoices)
        if (available(choice, cpu) && fits(*choice.variant, precision)) return *choice.variant;
    throw std::invalid_argument(
        "precision 'bf16' needs AMX or AVX512-BF16, which this machine does not offer");
}

namespace {

template <class Value, std::size_t count>
Value parse(const char* what, std::string_view name,
            const std::array<std::pair<const char*, Value>, count>& known) {
    std::string names;
    for (const auto& [label, value] : known) {
        if (name == label) return value;
        names += (names.empty() ? "" : ", ") + std::string(label);
    }
    throw std::invalid_argument(std::string(what) + " must be one of " + names + ", not '" +
                                std::string(name) + "'");
}

}  // namespace

Activation parse_activation(std::string_view name) {
    return parse<Activation, 4>("activation", name,
                                {{{"silu", Activation::silu},
                                  {"relu", Activation::relu},
                                  {"tanh", Activation::tanh},
                                  {"elu", Activation::elu}}});
}

Precision parse_precision(std::string_view name) {
    return parse<Precision, 3>(
        "precision", name,
        {{{"auto", Precision::automatic}, {"fp32", Precision::fp32}, {"bf16", Precision::bf16}}});
}

Propagation parse_propagation(std::string_view name) {
    return parse<Propagation, 2>("propagation", name,
                                 {{{"ts_inf", Propagation::ts_inf}, {"ts1", Propagation::ts1}}});
}

}  // namespace native
