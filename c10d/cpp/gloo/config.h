#pragma once
// PyTorch's wheel carries Gloo's code and not its headers. These declare just the names that c10d's own headers mention;
// no object of Gloo is laid out, made or called here.
