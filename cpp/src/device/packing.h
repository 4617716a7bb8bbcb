// Packs the matrices of a graph that are not packed yet.
#ifndef BLUELM_DEVICE_PACKING_H
#define BLUELM_DEVICE_PACKING_H

#include "device/graph.h"
#include "device/kernels.h"

namespace bluelm {

enum class DevicePrecision { kInt8, kWide, kFloat };

// Every matrix that a linear layer of the graph multiplies with gets a packed copy in its buffer. int8 where
// the graph tells how far the layer's inputs reach, so that they can be evened out: behind a norm, behind
// GELU or SwiGLU of that, behind attention over that; the wide type elsewhere. Where the graph uses a matrix
// for nothing else, its own pages go back. Matrices whose first row is all zeros are taken for not loaded yet
// and left. Throws std::bad_alloc.
void pack_weights(const Graph& graph, const DeviceKernels& kernels, DevicePrecision precision, int n_threads);

}  // namespace bluelm

#endif  // BLUELM_DEVICE_PACKING_H
