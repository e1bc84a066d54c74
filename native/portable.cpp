// The kernels for the dispatch target `portable`; the build passes its instruction set.
#include "table.inc"

namespace ps {
const Table portable_table = {elementwise<float>(), elementwise<double>(), CODECS};
}
