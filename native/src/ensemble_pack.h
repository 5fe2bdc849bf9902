// Weights copied once into the layout that a variant streams.
#pragma once

#include <vector>

#include "ensemble_kernel.h"

namespace native {

class PackedModel {
  public:
    // Throws std::invalid_argument for shapes that do not fit together. O(size of the weights).
    PackedModel(const EnsembleWeights& weights, const Variant& variant);
    PackedModel(const PackedModel&) = delete;
    PackedModel& operator=(const PackedModel&) = delete;

    const ModelView& view() const { return view_; }

  private:
    void pack_layer(const EnsembleWeights::Layer& layer, const Variant& variant);

    ModelView view_{};
    std::vector<LayerView> layers_;
    std::vector<AlignedFloats> storage_;
};

}  // namespace native
