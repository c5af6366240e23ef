// A C interface to the parts of c10d that tinygate uses. Every function catches every exception, because one that
// reached Rust would abort the process.

#include "bridge.h"

#include <torch/torch.h>

#include <c10/util/Logging.h>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/exception.h>
#ifdef TINYGATE_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#ifdef __linux__
#include <dlfcn.h>
#endif

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

struct tinygate_store {
  c10::intrusive_ptr<c10d::Store> inner;
  uint16_t port;
};

struct tinygate_group {
  c10::intrusive_ptr<c10d::Backend> inner;
};

namespace {

using std::chrono::milliseconds;

char* copy_text(const std::string& text) {
  char* copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy != nullptr) {
    std::memcpy(copy, text.c_str(), text.size() + 1);
  }
  return copy;
}

void note(tinygate_failure* failure, int32_t kind, const std::string& text) {
  failure->kind = kind;
  failure->text = copy_text(text);
}

// Runs `work`. An exception is stored in `failure`, and `none` is returned.
template <typename Result, typename Work>
Result guarded(tinygate_failure* failure, Result none, Work work) {
  try {
    return work();
  } catch (const c10d::TimeoutError& error) {
    note(failure, TINYGATE_TIMED_OUT, error.what_without_backtrace());
  } catch (const c10::DistNetworkError& error) {
    note(failure, TINYGATE_NETWORK, error.what_without_backtrace());
  } catch (const c10::DistStoreError& error) {
    note(failure, TINYGATE_STORE, error.what_without_backtrace());
  } catch (const c10::Error& error) {
    note(failure, TINYGATE_OTHER, error.what_without_backtrace());
  } catch (const std::exception& error) {
    note(failure, TINYGATE_OTHER, error.what());
  } catch (...) {
    note(failure, TINYGATE_OTHER, "an exception of an unknown type");
  }
  return none;
}

// For each broken connection c10d logs a stack trace, and then throws an exception, which is reported. The traces are
// turned off, unless the user sets libtorch's own variable for the log level.
void disable_stack_traces() {
  static const bool once = [] {
    if (std::getenv("TORCH_CPP_LOG_LEVEL") == nullptr) {
      FLAGS_caffe2_log_level = c10::GLOG_FATAL;
    }
    return true;
  }();
  (void)once;
}

std::vector<at::Tensor> tensors_of(void* const* tensors, size_t count) {
  std::vector<at::Tensor> all;
  all.reserve(count);
  for (size_t index = 0; index < count; index++) {
    all.push_back(*static_cast<torch::Tensor*>(tensors[index]));
  }
  return all;
}

// The options of a client.
c10d::TCPStoreOptions store_options(uint16_t port, int64_t timeout_ms) {
  c10d::TCPStoreOptions options;
  options.port = port;
  options.waitWorkers = false;
  options.timeout = milliseconds(timeout_ms);
  return options;
}

tinygate_store* open_store(const char* host, const c10d::TCPStoreOptions& options) {
  disable_stack_traces();
  auto store = c10::make_intrusive<c10d::TCPStore>(host, options);
  return new tinygate_store{store, store->getPort()};
}

} // namespace

extern "C" {

void tinygate_free_text(char* text) {
  std::free(text);
}

tinygate_store* tinygate_store_serve(
    int listener,
    const char* host,
    uint16_t port,
    int64_t timeout_ms,
    tinygate_failure* failure) {
  return guarded<tinygate_store*>(failure, nullptr, [&] {
    auto options = store_options(port, timeout_ms);
    options.isServer = true;
    options.masterListenFd = listener;
    return open_store(host, options);
  });
}

tinygate_store* tinygate_store_connect(
    const char* host,
    uint16_t port,
    int64_t timeout_ms,
    tinygate_failure* failure) {
  return guarded<tinygate_store*>(failure, nullptr, [&] { return open_store(host, store_options(port, timeout_ms)); });
}

tinygate_store* tinygate_store_prefixed(const tinygate_store* store, const char* prefix, tinygate_failure* failure) {
  return guarded<tinygate_store*>(failure, nullptr, [&] {
    return new tinygate_store{c10::make_intrusive<c10d::PrefixStore>(prefix, store->inner), store->port};
  });
}

void tinygate_store_free(tinygate_store* store) {
  try {
    delete store;
  } catch (...) {
    // The connection may be broken already.
  }
}

bool tinygate_store_set(
    const tinygate_store* store,
    const char* key,
    const uint8_t* bytes,
    size_t length,
    tinygate_failure* failure) {
  return guarded(failure, false, [&] {
    store->inner->set(key, std::vector<uint8_t>(bytes, bytes + length));
    return true;
  });
}

bool tinygate_store_check(const tinygate_store* store, const char* key, bool* there, tinygate_failure* failure) {
  return guarded(failure, false, [&] {
    *there = store->inner->check({key});
    return true;
  });
}

bool tinygate_store_wait(const tinygate_store* store, const char* key, int64_t timeout_ms, tinygate_failure* failure) {
  return guarded(failure, false, [&] {
    store->inner->wait({key}, milliseconds(timeout_ms));
    return true;
  });
}

uint8_t* tinygate_store_get(const tinygate_store* store, const char* key, size_t* length, tinygate_failure* failure) {
  return guarded<uint8_t*>(failure, nullptr, [&] {
    const std::vector<uint8_t> value = store->inner->get(key);
    auto* copy = static_cast<uint8_t*>(std::malloc(value.size() + 1));
    TORCH_CHECK(copy != nullptr, "out of memory for a value of ", value.size(), " bytes");
    std::memcpy(copy, value.data(), value.size());
    *length = value.size();
    return copy;
  });
}

void tinygate_free_bytes(uint8_t* bytes) {
  std::free(bytes);
}

tinygate_group* tinygate_group_gloo(
    const tinygate_store* store,
    int rank,
    int size,
    const char* address,
    const char* interface,
    int64_t timeout_ms,
    tinygate_failure* failure) {
  return guarded<tinygate_group*>(failure, nullptr, [&] {
    auto options = c10d::ProcessGroupGloo::Options::create(milliseconds(timeout_ms));
    options->devices.push_back(
        interface != nullptr ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
                             : c10d::ProcessGroupGloo::createDeviceForHostname(address));
    // With one thread, collectives run in the order of the calls.
    options->threads = 1;
    return new tinygate_group{c10::make_intrusive<c10d::ProcessGroupGloo>(store->inner, rank, size, options)};
  });
}

bool tinygate_has_nccl(void) {
#ifdef TINYGATE_NCCL
  return true;
#else
  return false;
#endif
}

tinygate_group* tinygate_group_nccl(
    const tinygate_store* store,
    int rank,
    int size,
    bool loopback,
    int64_t timeout_ms,
    tinygate_failure* failure) {
  return guarded<tinygate_group*>(failure, nullptr, [&]() -> tinygate_group* {
#ifdef TINYGATE_NCCL
    // By default c10d's watchdog ends the process when a rank hangs. With these settings a wait for a collective times
    // out, as with Gloo, and the caller decides.
    setenv("TORCH_NCCL_BLOCKING_WAIT", "1", 0);
    setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", 0);
    setenv("TORCH_NCCL_ENABLE_MONITORING", "0", 0);
    if (loopback) {
      setenv("NCCL_SOCKET_IFNAME", "lo", 0);
    }
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = milliseconds(timeout_ms);
    return new tinygate_group{c10::make_intrusive<c10d::ProcessGroupNCCL>(store->inner, rank, size, options)};
#else
    (void)store, (void)rank, (void)size, (void)loopback, (void)timeout_ms;
    TORCH_CHECK(false, "this build has no NCCL");
#endif
  });
}

char* tinygate_cuda_card(int index) {
#ifdef __linux__
  // Asks the driver's library, which libtorch has loaded if there is a device. This needs no CUDA headers, and the
  // driver numbers the devices that are visible to this process as libtorch does.
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver == nullptr) {
    return nullptr;
  }
  const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  const auto get = reinterpret_cast<int (*)(int*, int)>(dlsym(driver, "cuDeviceGet"));
  const auto name = reinterpret_cast<int (*)(char*, int, int)>(dlsym(driver, "cuDeviceGetName"));
  char text[256] = {};
  int device = 0;
  if (init == nullptr || get == nullptr || name == nullptr || init(0) != 0 || get(&device, index) != 0 ||
      name(text, sizeof text - 1, device) != 0) {
    return nullptr;
  }
  return copy_text(text);
#else
  (void)index;
  return nullptr;
#endif
}

void tinygate_group_free(tinygate_group* group) {
  try {
    delete group;
  } catch (...) {
    // The other ranks may be gone already.
  }
}

bool tinygate_group_sum(const tinygate_group* group, void* const* tensors, size_t count, tinygate_failure* failure) {
  return guarded(failure, false, [&] {
    auto all = tensors_of(tensors, count);
    group->inner->allreduce_coalesced(all, c10d::AllreduceCoalescedOptions())->wait();
    return true;
  });
}

bool tinygate_group_broadcast(
    const tinygate_group* group,
    void* tensor,
    int64_t root,
    tinygate_failure* failure) {
  return guarded(failure, false, [&] {
    std::vector<at::Tensor> one = tensors_of(&tensor, 1);
    c10d::BroadcastOptions options;
    options.rootRank = root;
    group->inner->broadcast(one, options)->wait();
    return true;
  });
}

} // extern "C"
