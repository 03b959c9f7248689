# Plumb. `make` builds with what is there; `make demo` and `make check` install what is missing first.
#
#   make            build/plumb, build/libplumb.a, build/libplumb.so
#   make demo       install the packages that are missing, build, ask the demo model a question
#   make check      install what the tests need, build, run every test
#   make test       run every test on what is there, installing nothing
#   make asan       the tests under AddressSanitizer and UndefinedBehaviorSanitizer (clang)
#   make fuzz       each fuzzer for FUZZ_SECONDS=60 (clang)
#   make bench      speed of a model of TinyLlama's shape on this machine
#   make install, uninstall      PREFIX=/usr/local DESTDIR=
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
.PHONY: all programs tests test demo check asan fuzz fuzzers bench install uninstall clean
.DELETE_ON_ERROR:
ifneq ($(V),1)
Q := @
endif

# Goals that hand over to another make (which sees the packages that were just installed) or need
# no compiler do not ask what the compiler finds.
HANDOVER := demo check asan fuzz bench uninstall clean
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

# -ffp-contract=off: the same bits on every machine; kernels that want FMA ask for it by name.
CFLAGS_ALL := -std=c11 $(OPT) -g -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno \
              -pthread -Iinclude -Isrc $(WARN) $(SAN) $(FEATURE_CFLAGS) \
              -DPLUMB_VERSION='"$(VERSION)"' $(CFLAGS)
LDFLAGS_ALL := -pthread $(SAN) $(LDFLAGS)
LIBS := $(FEATURE_LIBS) -lm

# Other flags than last time: every object is stale.
FLAGS := $(strip $(CC) $(CFLAGS_ALL) / $(LDFLAGS_ALL) $(LIBS))
ifneq ($(FEATURES_FOR),)
-include $(BUILD)/flags.mk
ifneq ($(FLAGS),$(FLAGS_WERE))
$(file >$(BUILD)/flags.mk,FLAGS_WERE := $(FLAGS))
endif
$(BUILD)/flags.mk: ;
endif

# --- sources: the rooms of src/; the library has all but the ones above the engine ---
SRCS      := $(sort $(shell find src -name '*.c'))
OBJS      := $(SRCS:%.c=$(BUILD)/%.o)
# The generic kernels again, for a newer level of the architecture (src/backend/cpu/kernel_set.h).
ifneq ($(findstring x86_64,$(shell $(CC) -dumpmachine 2>/dev/null)),)
OBJS      += $(addprefix $(BUILD)/src/backend/cpu/,kernels_generic.avx2.o unpack.avx2.o)
endif
LIB_ROOMS := base formats model backend engine
# Safetensors files are for verify alone, and would bind the library to jansson.
LIB_OBJS  := $(filter-out $(BUILD)/src/formats/safetensors.o,\
             $(filter $(LIB_ROOMS:%=$(BUILD)/src/%/%),$(OBJS)))
TEST_OBJS := $(filter-out $(BUILD)/src/cli/main.o,$(OBJS))

UNIT_BINS := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/unit/test_*.c)))
FUZZ_BINS := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))

# Kernels are where -O3 pays.
$(BUILD)/src/backend/cpu/%.o: FILE_FLAGS := -O3
$(BUILD)/src/oracle/%.o: FILE_FLAGS := -O3
$(BUILD)/src/backend/cpu/%.avx2.o: FILE_FLAGS := -O3 -mavx2 -DKERNEL_SET=avx2 -DKERNEL_LEVEL=avx2
$(BUILD)/tests/fuzz/%.o: FILE_FLAGS := -Itests/unit

$(BUILD)/%.o: %.c Makefile $(BUILD)/flags.mk
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS_ALL) $(FILE_FLAGS) -MMD -MP -c $< -o $@

$(BUILD)/%.avx2.o: %.c Makefile $(BUILD)/flags.mk
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS_ALL) $(FILE_FLAGS) -MMD -MP -c $< -o $@

$(BUILD)/src/cli/demo_model.o: models/demo.gguf
$(BUILD)/src/verify/report_html.o: $(wildcard src/verify/page/*)

# --- programs and libraries (under a sanitizer, whose names must stay, the program alone) ---
programs: $(BUILD)/plumb $(if $(SANITIZE),,$(BUILD)/libplumb.a $(BUILD)/libplumb.so)

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
tests: programs $(UNIT_BINS)

$(BUILD)/tests/%: $(BUILD)/tests/unit/%.o $(TEST_OBJS)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS_CMOCKA) $(LIBS)

# A unit test's tests/unit/NAME.c, where cmocka is known to be there.
$(BUILD)/tests/unit/%.o: tests/unit/%.c Makefile $(BUILD)/flags.mk
	$(if $(HAVE_CMOCKA),,$(error the tests need libcmocka-dev; `make check` installs it))
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS_ALL) -MMD -MP -c $< -o $@

test: tests
	@PLUMB_CC='$(CC)' $(if $(SANITIZE),PLUMB_SANITIZE=1) python3 tests/run.py --build $(BUILD)

# --- goals that install, or build in a directory of their own ---
PARALLEL = $(if $(filter -j%,$(MAKEFLAGS)),,-j$(or $(shell nproc 2>/dev/null),2))
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
	$(if $(SANITIZE),$(error a sanitizer build is not for installing))
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

-include $(OBJS:.o=.d) $(wildcard $(BUILD)/tests/unit/*.d $(BUILD)/tests/fuzz/*.d)
