// How many threads are worth starting.
#ifndef BLUELM_CORES_H
#define BLUELM_CORES_H

namespace bluelm {

// Physical cores this process may run on: hyperthreads share the units that matrix kernels saturate.
int physical_cores();

}  // namespace bluelm

#endif  // BLUELM_CORES_H
