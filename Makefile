# Plumb. `make` builds with what is there; `make demo` and `make check` install what is missing first.
#
#   make            build/plumb, build/libplumb.a, build/libplumb.so
#   make demo       install the packages that are missing, build, ask the demo model a question
#   make check      install what the tests need, build, run every test
#   make test       run every test on what is there, installing nothing
#   make asan       the tests under AddressSanitizer and UndefinedBehaviorSanitizer (clang)
#   make fuzz       each fuzzer for FUZZ_SECONDS=60 (clang)
#   make bench      speed of a model of TinyLlama's shape on this machine
#   make bench-kernels, bench-attention     the CPU's matmul and attention kernels alone: shares of the memory
#                   and of the peak
#   make bench-pool what the thread pool's barriers and runs cost
#   make install, uninstall      PREFIX=/usr/local DESTDIR=
#   make METAL=1    on macOS: with the backend for Apple's GPUs
#   make METAL=1 check-metal     proves it on this Mac
#   make clean
#
# Variables: BUILD=build CC=gcc OPT=-O2 CFLAGS= LDFLAGS= WERROR=1 SANITIZE=1 V=1, and HAVE_PCRE2=,
# HAVE_JANSSON=, HAVE_LIBEDIT= (empty) to leave a library out. GNU make 4, GNU binutils.
ifeq ($(origin CC),default)
CC      := gcc
endif
BUILD   ?= build
OPT     ?= -O2
OBJCOPY ?= objcopy
INSTALL ?= install
PREFIX  ?= /usr/local
LIBDIR  ?= $(PREFIX)/lib
VERSION := 0.1.0
SONAME  := libplumb.so.0
MAKEFLAGS += --no-builtin-rules

all: programs
.PHONY: all programs tests test demo check asan fuzz fuzzers bench bench-kernels bench-attention \
        bench-pool install uninstall clean check-metal
.DELETE_ON_ERROR:
ifneq ($(V),1)
Q := @
endif

DARWIN := $(filter Darwin,$(shell uname))

# Goals that hand over to another make (which sees the packages that were just installed) or need
# no compiler do not ask what the compiler finds.
HANDOVER := demo check asan fuzz bench bench-kernels bench-attention bench-pool uninstall clean
ifneq ($(filter-out $(HANDOVER),$(or $(MAKECMDGOALS),all)),)
include tools/features.mk
endif

# --- flags ---
# -Wno-psabi: vectors are passed between static inline functions only, where no ABI matters.
WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla \
        -Wwrite-strings -Wundef -Wconversion -Wno-sign-conversion -Wno-psabi
ifeq ($(WERROR),1)
WARN += -Werror
endif
ifneq ($(SANITIZE),)
SAN := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
ifeq ($(SANITIZE),fuzzer)
SAN += -fsanitize=fuzzer-no-link
endif
endif

ifneq ($(METAL),)
METAL_CFLAGS := -DPLUMB_METAL
METAL_LIBS   := -framework Metal -framework Foundation
endif
# -ffp-contract=off: the same bits on every machine; kernels that want FMA ask for it by name.
CFLAGS_ALL := -std=c11 $(OPT) -g -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno \
              -pthread -Iinclude -Isrc $(WARN) $(SAN) $(FEATURE_CFLAGS) $(METAL_CFLAGS) \
              -DPLUMB_VERSION='"$(VERSION)"' $(CFLAGS)
LDFLAGS_ALL := -pthread $(SAN) $(LDFLAGS)
LIBS := $(FEATURE_LIBS) $(METAL_LIBS) -lm

# Other flags than last time: every object is stale.
FLAGS := $(strip $(CC) $(CFLAGS_ALL) / $(LDFLAGS_ALL) $(LIBS))
ifneq ($(FEATURES_FOR),)
-include $(BUILD)/flags.mk
ifneq ($(FLAGS),$(FLAGS_WERE))
$(shell printf 'FLAGS_WERE := %s\n' '$(subst ','\'',$(FLAGS))' >$(BUILD)/flags.mk)
endif
$(BUILD)/flags.mk: ;
endif

# --- sources: the rooms of src/; the library has all but the ones above the engine ---
SRCS      := $(sort $(shell find src -name '*.c'))
# Kernels that are written in vectors, and the generic ones again, for each level of the architecture
# (src/backend/cpu/kernel_set.h).
CPU       := $(BUILD)/src/backend/cpu
VECTOR    := kernels_vector kernels_panels kernels_floats
TILES     := kernels_tiles kernels_amx kernels_bf16
MATRIX    := kernels_i8mm
# These have a generic copy too, in vectors that every machine has.
LANED     := kernels_attention kernels_rows
LEVELLED  := $(VECTOR) $(LANED) kernels_generic unpack
MACHINE   := $(shell $(CC) -dumpmachine 2>/dev/null)
SRCS      := $(filter-out $(patsubst %,src/backend/cpu/%.c,$(VECTOR) $(TILES) $(MATRIX)),$(SRCS))
LEVEL_OBJS :=
ifneq ($(findstring x86_64,$(MACHINE)),)
LEVELS     := avx2 avx512
LEVEL_OBJS := $(foreach l,$(LEVELS),$(LEVELLED:%=$(CPU)/%.$l.o)) $(TILES:%=$(CPU)/%.avx512.o)
endif
ifneq ($(filter aarch64% arm64%,$(MACHINE)),)
LEVELS     := neon
LEVEL_OBJS := $(LEVELLED:%=$(CPU)/%.neon.o) $(MATRIX:%=$(CPU)/%.neon.o)
endif
OBJS      := $(SRCS:%.c=$(BUILD)/%.o) $(LEVEL_OBJS) \
             $(if $(METAL),$(BUILD)/src/backend/gpu/device_metal.o)
LIB_ROOMS := base formats model backend engine
# Safetensors files are for verify alone, and would bind the library to jansson.
LIB_OBJS  := $(filter-out $(BUILD)/src/formats/safetensors.o,\
             $(filter $(LIB_ROOMS:%=$(BUILD)/src/%/%),$(OBJS)))
TEST_OBJS := $(filter-out $(BUILD)/src/cli/main.o,$(OBJS))

UNIT_BINS := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/unit/test_*.c)))
FUZZ_BINS := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))

# Kernels are where -O3 pays; under a sanitizer it only takes minutes.
O3 := $(if $(SANITIZE),-O1,-O3)
$(BUILD)/src/backend/cpu/%.o: FILE_FLAGS := $(O3)
$(BUILD)/src/oracle/%.o: FILE_FLAGS := $(O3)
$(CPU)/%.avx2.o: FILE_FLAGS := $(O3) -mavx2 -mfma -mf16c -DKERNEL_SET=avx2
AVX512 := $(O3) -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni
$(CPU)/%.avx512.o: FILE_FLAGS := $(AVX512) -DKERNEL_SET=avx512
$(TILES:%=$(CPU)/%.avx512.o): FILE_FLAGS += -mamx-tile -mamx-int8 -mamx-bf16
NEON := $(O3) -march=armv8.2-a+dotprod+fp16
$(CPU)/%.neon.o: FILE_FLAGS := $(NEON) -DKERNEL_SET=neon
$(MATRIX:%=$(CPU)/%.neon.o): FILE_FLAGS := $(NEON)+i8mm -DKERNEL_SET=neon
# In plain C, with simulated tiles and quads: for tests.
$(CPU)/%.host.o: FILE_FLAGS := -O2 -DKERNEL_SET=host -DPLAIN_LANES
$(BUILD)/tests/fuzz/%.o: FILE_FLAGS := -Itests/unit

$(BUILD)/%.o: %.c Makefile $(BUILD)/flags.mk
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS_ALL) $(FILE_FLAGS) -MMD -MP -c $< -o $@

define level_rule
$(BUILD)/%.$1.o: %.c Makefile $(BUILD)/flags.mk
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(CFLAGS_ALL) $$(FILE_FLAGS) -MMD -MP -c $$< -o $$@
endef
$(foreach l,$(LEVELS) host,$(eval $(call level_rule,$l)))

# --- Metal: on macOS, with METAL=1 ---
ifneq ($(METAL),)
ifeq ($(DARWIN),)
$(error METAL=1 is for macOS; elsewhere the tests run Metal's backend on a simulated GPU)
endif
endif

$(BUILD)/%.o: %.m Makefile $(BUILD)/flags.mk
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS_ALL) -fno-objc-arc -MMD -MP -c $< -o $@

$(BUILD)/src/cli/demo_model.o: models/demo.gguf
$(BUILD)/src/verify/report_html.o: $(wildcard src/verify/page/*)
$(BUILD)/src/backend/gpu/gpu_source.o: $(wildcard src/backend/gpu/*.h)

# --- programs and libraries (the program alone under a sanitizer, whose names must stay, and on
# macOS, whose linker makes libraries in another way) ---
programs: $(BUILD)/plumb $(if $(SANITIZE)$(DARWIN),,$(BUILD)/libplumb.a $(BUILD)/libplumb.so)

$(BUILD)/plumb: $(OBJS)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

# One object, in which every name but plumb_* is local: a program that links libplumb.a meets
# nothing but the public names.
$(BUILD)/libplumb.a: $(LIB_OBJS)
	@rm -f $@
	$(Q)$(LD) -r -o $(BUILD)/libplumb.o $^
	$(Q)$(OBJCOPY) --wildcard --keep-global-symbol='plumb_*' $(BUILD)/libplumb.o
	$(Q)$(AR) rcs $@ $(BUILD)/libplumb.o

$(BUILD)/libplumb.so: $(LIB_OBJS)
	$(Q)$(CC) $(LDFLAGS_ALL) -shared -Wl,-soname,$(SONAME) -Wl,-z,defs -o $@ $^ $(LIBRARY_LIBS) -lm

# --- tests ---
tests: programs $(UNIT_BINS) $(BUILD)/bench/pool

# What tests share (an emulator of GPUs, the processor's kernels in plain C); a test takes of it
# what it uses.
$(BUILD)/libtests.a: $(patsubst %.c,$(BUILD)/%.o,$(sort $(wildcard tests/gpu/*.c tests/cpu/*.c))) \
    $(patsubst %,$(CPU)/%.host.o,$(VECTOR) $(LANED) $(TILES) $(MATRIX) unpack)
	@rm -f $@
	$(Q)$(AR) rcs $@ $^

$(BUILD)/tests/%: $(BUILD)/tests/unit/%.o $(TEST_OBJS) $(BUILD)/libtests.a
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS_CMOCKA) $(LIBS)

# A unit test's tests/unit/NAME.c, where cmocka is known to be there.
$(BUILD)/tests/unit/%.o: tests/unit/%.c Makefile $(BUILD)/flags.mk
	$(if $(HAVE_CMOCKA),,$(error the tests need libcmocka-dev; `make check` installs it))
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS_ALL) -MMD -MP -c $< -o $@

# --- Metal without a Mac: its device on a simulated GPU, in a plumb and in tests of their own ---
SIM := $(BUILD)/metal-sim
# Sources that look at PLUMB_METAL.
SIM_SRCS := src/backend/backend.c $(sort $(wildcard src/backend/gpu/*.c))
SIM_TEST_OBJS := $(filter-out $(SIM_SRCS:%.c=$(BUILD)/%.o),$(TEST_OBJS)) $(SIM_SRCS:%.c=$(SIM)/%.o) \
    $(SIM)/src/backend/gpu/device_metal.o \
    $(patsubst %,$(SIM)/%.o,$(basename $(sort $(wildcard tests/metal/sim_*.[cm])))) $(BUILD)/libtests.a
# The kernels find the simulation's functions in the program that loads them.
SIM_LINK = $(CC) $(LDFLAGS_ALL) -rdynamic -o $@ $^ $(LIBS_CMOCKA) $(LIBS) $(LIBS_METAL_SIM)
SIM_CFLAGS := -DPLUMB_METAL -Itests -DSIM_INCLUDE='"$(abspath tests/metal)"'
SIM_BINS := $(BUILD)/plumb-metal-sim $(addprefix $(BUILD)/tests/,test_metal_sim test_metal_device \
    test_metal_suite test_metal_gpu_kernels test_metal_gpu_matmul test_metal_gpu_attention)
ifeq ($(HAVE_METAL_SIM)$(SANITIZE),1)
tests: $(SIM_BINS)
endif

$(SIM)/%.o: %.c Makefile $(BUILD)/flags.mk
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS_ALL) $(SIM_CFLAGS) -MMD -MP -c $< -o $@

$(SIM)/%.o: %.m Makefile $(BUILD)/flags.mk
	@mkdir -p $(@D)
	$(Q)clang -std=c11 $(OPT) -g -fPIC -pthread -Iinclude -Isrc -Itests/metal/include $(WARN) \
	    $(OBJC_FLAGS) $(SIM_CFLAGS) -MMD -MP -c $< -o $@

$(SIM)/src/backend/gpu/gpu_source.o: $(wildcard src/backend/gpu/*.h)

$(BUILD)/plumb-metal-sim: $(BUILD)/src/cli/main.o $(SIM_TEST_OBJS)
	$(Q)$(SIM_LINK)

# The kernels' own tests, on it.
$(BUILD)/tests/test_metal_gpu_%: $(SIM)/tests/unit/test_gpu_%.o $(SIM_TEST_OBJS)
	@mkdir -p $(@D)
	$(Q)$(SIM_LINK)

$(BUILD)/tests/test_metal_%: $(SIM)/tests/metal/test_metal_%.o $(SIM_TEST_OBJS)
	@mkdir -p $(@D)
	$(Q)$(SIM_LINK)

# On a Mac its GPU, elsewhere the simulated one: the device, the kernels, verify on every model here.
METAL_PLUMB := $(BUILD)/plumb$(if $(METAL),,-metal-sim)
METAL_TESTS := $(if $(HAVE_CMOCKA),$(addprefix $(BUILD)/tests/,$(if $(METAL),test_device_metal \
    test_gpu_kernels test_gpu_matmul test_gpu_attention,test_metal_suite \
    test_metal_gpu_kernels test_metal_gpu_matmul test_metal_gpu_attention)))
METAL_MODELS := models/demo.gguf $(sort $(wildcard tests/golden/models/*.gguf)) \
    $(filter-out %-golden.gguf,$(sort $(wildcard tests/golden/arch/*.gguf)))
check-metal: $(METAL_PLUMB) $(METAL_TESTS)
	@$(METAL_PLUMB) backends
	@$(if $(METAL_TESTS),,echo 'cmocka is not there: without the tests of the device and its kernels')
	@for t in $(METAL_TESTS); do echo "--- $$t"; $$t || exit 1; done
	@for m in $(METAL_MODELS); do echo "--- $$m"; \
	    $(METAL_PLUMB) verify --backend metal -m $$m || exit 1; done
	@echo '--- Metal: all of it is right'

test: tests
	@PLUMB_CC='$(CC)' $(if $(SANITIZE),PLUMB_SANITIZE=1) python3 tests/run.py --build $(BUILD)

# --- goals that install, or build in a directory of their own ---
PARALLEL = $(if $(filter -j%,$(MAKEFLAGS)),,\
           -j$(or $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null),2))
SUBMAKE = $(MAKE) --no-print-directory $(if $(V),,-s) $(PARALLEL)

demo:
	@tools/install-packages.sh demo
	+@$(SUBMAKE) $(BUILD)/plumb
	@$(BUILD)/plumb run --temp 0 "What is the capital of France?"

check:
	@tools/install-packages.sh check
	+@$(SUBMAKE) test

asan:
	+@$(SUBMAKE) BUILD=build-asan CC=clang SANITIZE=1 OPT=-O1 test

bench:
	+@$(SUBMAKE) $(BUILD)/plumb
	@tools/bench.sh $(BUILD)/plumb

# --- benchmarks of parts: bench/NAME_bench.c to build/bench/NAME ---
bench-kernels bench-attention bench-pool: bench-%:
	+@$(SUBMAKE) $(BUILD)/bench/$*
	@$(BUILD)/bench/$*

$(BUILD)/bench/%.o: FILE_FLAGS := -O3
$(BUILD)/bench/fma_peak.avx2.o: FILE_FLAGS := -O3 -mavx2 -mfma -mf16c -DKERNEL_SET=avx2
$(BUILD)/bench/fma_peak.avx512.o: FILE_FLAGS := $(AVX512) -DKERNEL_SET=avx512
# Of each level what it could do at most.
PEAKS := $(BUILD)/bench/fma_peak.o $(LEVELS:%=$(BUILD)/bench/fma_peak.%.o)
$(BUILD)/bench/attention: $(PEAKS)
$(BUILD)/bench/%: $(BUILD)/bench/%_bench.o $(LIB_OBJS)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)
.PRECIOUS: $(BUILD)/bench/%_bench.o

FUZZ_SECONDS ?= 60
fuzz:
	+@$(SUBMAKE) BUILD=build-fuzz CC=clang SANITIZE=fuzzer OPT=-O1 fuzzers
	@tools/fuzz.sh build-fuzz/fuzz $(FUZZ_SECONDS)

fuzzers: $(FUZZ_BINS)
$(BUILD)/fuzz/%: $(BUILD)/tests/fuzz/%.o $(TEST_OBJS)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS_ALL) -fsanitize=fuzzer -o $@ $^ $(LIBS)

# --- installing ---
INTO := $(DESTDIR)$(PREFIX)
INTO_LIB := $(DESTDIR)$(LIBDIR)
$(BUILD)/plumb.pc: tools/plumb.pc.in Makefile $(BUILD)/flags.mk
	@sed -e 's|@PREFIX@|$(PREFIX)|; s|@LIBDIR@|$(patsubst $(PREFIX)/%,$${prefix}/%,$(LIBDIR))|' \
	     -e 's|@VERSION@|$(VERSION)|; s|@REQUIRES@|$(LIBRARY_REQUIRES)|' $< >$@

install: programs
	$(if $(SANITIZE)$(DARWIN),$(error no libraries are made under a sanitizer and on macOS))
	@rm -f $(BUILD)/plumb.pc # PREFIX may be another than last time
	+@$(MAKE) --no-print-directory -s $(BUILD)/plumb.pc
	$(INSTALL) -d $(INTO)/bin $(INTO)/include $(INTO_LIB)/pkgconfig $(INTO)/share/man/man1 \
	    $(INTO)/share/doc/plumb
	$(INSTALL) -m 755 $(BUILD)/plumb $(INTO)/bin/
	$(INSTALL) -m 644 include/plumb.h $(INTO)/include/
	$(INSTALL) -m 644 $(BUILD)/libplumb.a $(INTO_LIB)/
	$(INSTALL) -m 644 $(BUILD)/libplumb.so $(INTO_LIB)/libplumb.so.$(VERSION)
	ln -sf libplumb.so.$(VERSION) $(INTO_LIB)/$(SONAME)
	ln -sf $(SONAME) $(INTO_LIB)/libplumb.so
	$(INSTALL) -m 644 $(BUILD)/plumb.pc $(INTO_LIB)/pkgconfig/
	$(INSTALL) -m 644 docs/plumb.1 $(INTO)/share/man/man1/
	$(INSTALL) -m 644 README.md LICENSE $(INTO)/share/doc/plumb/

uninstall:
	rm -f $(INTO)/bin/plumb $(INTO)/include/plumb.h $(INTO)/share/man/man1/plumb.1 \
	    $(INTO_LIB)/libplumb.a $(INTO_LIB)/libplumb.so $(INTO_LIB)/$(SONAME) \
	    $(INTO_LIB)/libplumb.so.$(VERSION) $(INTO_LIB)/pkgconfig/plumb.pc
	rm -rf $(INTO)/share/doc/plumb

clean:
	rm -rf $(BUILD)

-include $(OBJS:.o=.d) $(wildcard $(BUILD)/tests/unit/*.d $(BUILD)/tests/fuzz/*.d $(BUILD)/tests/gpu/*.d $(BUILD)/tests/cpu/*.d \
    $(CPU)/*.host.d $(BUILD)/bench/*.d) \
    $(shell find $(SIM) -name '*.d' 2>/dev/null)
