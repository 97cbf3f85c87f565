// The kernels are compiled once for each instruction set, each time in a namespace of its own: a symbol that two of
// them shared could be linked from the wrong one and end in an illegal instruction.
#pragma once

#ifndef LOSSKIT_ISA
#define LOSSKIT_ISA baseline
#endif

// For what stands inside a hot loop: a call that the compiler decides not to inline keeps the loop from vectorising.
#define LOSSKIT_INLINE inline __attribute__((always_inline))
