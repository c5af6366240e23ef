#pragma once

#include <cstddef>
#include <cstdint>

// Mirrored by src/ffi.rs.

extern "C" {

// Kinds of failures.
enum { TINYGATE_OTHER = 0, TINYGATE_TIMED_OUT = 1, TINYGATE_NETWORK = 2, TINYGATE_STORE = 3 };

struct tinygate_failure {
  int32_t kind;
  char* text; // freed with tinygate_free_text; null if there is no failure
};

struct tinygate_store;
struct tinygate_group;

void tinygate_free_text(char* text);
void tinygate_free_bytes(uint8_t* bytes);

// Takes ownership of `listener`, a listening socket at `host` and `port`.
tinygate_store* tinygate_store_serve(int listener, const char* host, uint16_t port, int64_t timeout_ms, tinygate_failure* failure);
tinygate_store* tinygate_store_connect(const char* host, uint16_t port, int64_t timeout_ms, tinygate_failure* failure);
tinygate_store* tinygate_store_prefixed(const tinygate_store* store, const char* prefix, tinygate_failure* failure);
void tinygate_store_free(tinygate_store* store);
bool tinygate_store_set(const tinygate_store* store, const char* key, const uint8_t* bytes, size_t length, tinygate_failure* failure);
bool tinygate_store_check(const tinygate_store* store, const char* key, bool* there, tinygate_failure* failure);
bool tinygate_store_wait(const tinygate_store* store, const char* key, int64_t timeout_ms, tinygate_failure* failure);
uint8_t* tinygate_store_get(const tinygate_store* store, const char* key, size_t* length, tinygate_failure* failure);

// If `interface` is null, the device is bound to `address`.
tinygate_group* tinygate_group_gloo(const tinygate_store* store, int rank, int size, const char* address, const char* interface, int64_t timeout_ms, tinygate_failure* failure);
bool tinygate_has_nccl(void);
// The name of a CUDA device, freed with tinygate_free_text; null if unknown.
char* tinygate_cuda_card(int index);
tinygate_group* tinygate_group_nccl(const tinygate_store* store, int rank, int size, bool loopback, int64_t timeout_ms, tinygate_failure* failure);
void tinygate_group_free(tinygate_group* group);
bool tinygate_group_sum(const tinygate_group* group, void* const* tensors, size_t count, tinygate_failure* failure);
bool tinygate_group_broadcast(const tinygate_group* group, void* tensor, int64_t root, tinygate_failure* failure);

}
