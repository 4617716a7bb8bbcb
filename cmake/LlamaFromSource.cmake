# llama.cpp compiled as part of this build, into static libraries: for the standalone programs, natively or for
# another machine. The source is BLUELM_LLAMA_CPP_DIR, or what scripts/fetch_llama_cpp.py takes out of
# llama-cpp-python's sdist, so that wheel and programs run the same llama.cpp.
#
# Sets BLUELM_LLAMA_INCLUDE_DIRS, BLUELM_LLAMA_LIBRARIES, BLUELM_LLAMA_CPP_VERSION. With BLUELM_CPU_LEVELS it also
# makes ggml-cpu-LEVEL for each level; BLUELM_LLAMA_LIBRARIES then leaves the CPU kernels out.

if(NOT BLUELM_LLAMA_CPP_DIR)
  bluelm_fetch_llama_cpp()
  set(BLUELM_LLAMA_CPP_VERSION "${BLUELM_LLAMA_CPP_PINNED}")
else()
  get_filename_component(BLUELM_LLAMA_CPP_DIR "${BLUELM_LLAMA_CPP_DIR}" ABSOLUTE)
  if(NOT EXISTS "${BLUELM_LLAMA_CPP_DIR}/include/llama.h")
    message(FATAL_ERROR "${BLUELM_LLAMA_CPP_DIR}: not llama.cpp's source (no include/llama.h); "
                        "it is vendor/llama.cpp in llama-cpp-python's sdist")
  endif()
  set(BLUELM_LLAMA_CPP_VERSION "${BLUELM_LLAMA_CPP_PINNED}, from a given directory")
endif()

# What the user gave on the command line wins over these.
set(BUILD_SHARED_LIBS OFF)
set(GGML_OPENMP OFF CACHE BOOL "threads are ggml's own")
set(GGML_NATIVE OFF CACHE BOOL "what is built need not run here")
set(GGML_CCACHE OFF CACHE BOOL "CMAKE_CXX_COMPILER_LAUNCHER decides")
foreach(part COMMON TOOLS EXAMPLES TESTS SERVER APP)
  set(LLAMA_BUILD_${part} OFF CACHE BOOL "only the library is needed")
endforeach()
set(LLAMA_OPENSSL OFF CACHE BOOL "nothing here talks to a network")
if(BLUELM_CPU_LEVELS)
  set(GGML_CPU_ARM_ARCH "armv8-a" CACHE STRING "of the lowest level")
endif()

# Unused functions are left out of the programs.
add_compile_options(-ffunction-sections -fdata-sections)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU"
   AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 12.4)
  # GCC bug 114098: _tile_loadconfig loses most of its operand, and ggml's AMX kernels crash.
  add_compile_options(-mno-amx-tile -mno-amx-int8 -mno-amx-bf16)
endif()

add_subdirectory("${BLUELM_LLAMA_CPP_DIR}" llama.cpp EXCLUDE_FROM_ALL)
set(BLUELM_LLAMA_INCLUDE_DIRS "${BLUELM_LLAMA_CPP_DIR}/include" "${BLUELM_LLAMA_CPP_DIR}/ggml/include")

# ggml-cpu once more, under another name and for another -march: everything else about it stays.
function(bluelm_add_cpu_level level march)
  set(name "ggml-cpu-${level}")
  get_target_property(directory ggml-cpu SOURCE_DIR)
  get_target_property(listed ggml-cpu SOURCES)
  set(sources "")
  foreach(source IN LISTS listed)
    get_filename_component(source "${source}" ABSOLUTE BASE_DIR "${directory}")
    list(APPEND sources "${source}")
  endforeach()
  add_library(${name} STATIC EXCLUDE_FROM_ALL ${sources})
  foreach(property COMPILE_DEFINITIONS COMPILE_OPTIONS INCLUDE_DIRECTORIES COMPILE_FEATURES
                   POSITION_INDEPENDENT_CODE)
    get_target_property(value ggml-cpu ${property})
    if(value)
      if(property STREQUAL "COMPILE_OPTIONS")
        list(FILTER value EXCLUDE REGEX "^-march=")
      elseif(property STREQUAL "INCLUDE_DIRECTORIES")
        set(absolute "")
        foreach(path IN LISTS value)
          if(NOT path MATCHES "^\\$<")
            get_filename_component(path "${path}" ABSOLUTE BASE_DIR "${directory}")
          endif()
          list(APPEND absolute "${path}")
        endforeach()
        set(value "${absolute}")
      endif()
      set_target_properties(${name} PROPERTIES ${property} "${value}")
    endif()
  endforeach()
  # What ggml defines for all of its directory is no property of the target.
  get_property(defined DIRECTORY "${directory}" PROPERTY COMPILE_DEFINITIONS)
  target_compile_definitions(${name} PRIVATE ${defined})
  target_compile_options(${name} PRIVATE "-march=${march}")
  target_include_directories(${name} PRIVATE "${directory}/../include")
endfunction()

if(BLUELM_CPU_LEVELS)
  set(BLUELM_LLAMA_LIBRARIES "")
  foreach(level IN LISTS BLUELM_CPU_LEVELS)
    if(level STREQUAL "neon")
      add_library(ggml-cpu-neon ALIAS ggml-cpu)
    elseif(DEFINED BLUELM_CPU_LEVEL_${level})
      bluelm_add_cpu_level(${level} "${BLUELM_CPU_LEVEL_${level}}")
    else()
      message(FATAL_ERROR "BLUELM_CPU_LEVELS: no level ${level}; there are neon, dotprod, i8mm")
    endif()
  endforeach()
else()
  set(BLUELM_LLAMA_LIBRARIES llama ggml)
endif()
