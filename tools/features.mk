# What this machine has of the optional libraries. tools/features.sh asks the compiler once for a
# build directory; it is asked again when the compiler, its flags or the installed headers change.
# HAVE_NAME= on make's command line leaves a library out.
FEATURE_DIRS    := /usr/include /usr/local/include /usr/include/*-linux-* $(subst :, ,$(CPATH))
FEATURE_HEADERS := pcre2.h jansson.h histedit.h cmocka.h stdio.h GNUstep/Foundation/Foundation.h
FEATURE_KEY     := $(strip $(CC) $(CFLAGS) $(LDFLAGS) $(wildcard $(foreach d,$(FEATURE_DIRS),\
                   $(FEATURE_HEADERS:%=$(d)/%))))

-include $(BUILD)/features.mk
ifneq ($(FEATURE_KEY),$(FEATURES_FOR))
$(shell mkdir -p $(BUILD) && sh tools/features.sh $(CC) $(CFLAGS) $(LDFLAGS) >$(BUILD)/features.mk)
$(shell printf 'FEATURES_FOR := %s\n' '$(subst ','\'',$(FEATURE_KEY))' >>$(BUILD)/features.mk)
include $(BUILD)/features.mk
endif
$(BUILD)/features.mk: ;
ifneq ($(COMPILER_WORKS),1)
$(shell rm -f $(BUILD)/features.mk)
$(error $(CC) cannot build a C program: is it there, and libc6-dev?)
endif

feature = $(if $(filter 1,$(HAVE_$(1))),$(2),$(3))
FEATURE_CFLAGS := $(foreach f,PCRE2 JANSSON LIBEDIT,-DHAVE_$(f)=$(call feature,$(f),1,0))
FEATURE_LIBS   := $(foreach f,PCRE2 JANSSON LIBEDIT,$(call feature,$(f),$(LIBS_$(f))))
# The library needs PCRE2 alone, and as a shared library.
LIBRARY_LIBS     := $(call feature,PCRE2,-lpcre2-8)
LIBRARY_REQUIRES := $(call feature,PCRE2,libpcre2-8)
