# llama.cpp as the installed llama-cpp-python brings it: shared libraries, so that a Python process holds one ggml.
#
# Sets BLUELM_LLAMA_INCLUDE_DIRS, BLUELM_LLAMA_LIBRARIES, BLUELM_LLAMA_CPP_VERSION; BLUELM_GGML_LIBRARIES, ggml alone,
# and BLUELM_GGML_VERSION.

find_package(Python REQUIRED COMPONENTS Interpreter)
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c
    "import importlib.util, importlib.metadata, pathlib; \
spec = importlib.util.find_spec('llama_cpp'); \
print(pathlib.Path(spec.origin).parent.as_posix(), importlib.metadata.version('llama-cpp-python'), sep=';')"
  OUTPUT_VARIABLE BLUELM_LLAMA_CPP_FOUND
  OUTPUT_STRIP_TRAILING_WHITESPACE
  ERROR_QUIET
  RESULT_VARIABLE BLUELM_LLAMA_CPP_MISSING)
if(BLUELM_LLAMA_CPP_MISSING)
  message(FATAL_ERROR "llama-cpp-python is not installed for ${Python_EXECUTABLE}: "
                      "pip install llama-cpp-python==${BLUELM_LLAMA_CPP_PINNED} first, or build through pip")
endif()
list(GET BLUELM_LLAMA_CPP_FOUND 0 BLUELM_LLAMA_CPP_PACKAGE)
list(GET BLUELM_LLAMA_CPP_FOUND 1 BLUELM_LLAMA_CPP_VERSION)
if(NOT BLUELM_LLAMA_CPP_VERSION STREQUAL BLUELM_LLAMA_CPP_PINNED)
  message(FATAL_ERROR "llama-cpp-python ${BLUELM_LLAMA_CPP_VERSION} is installed, this version needs "
                      "${BLUELM_LLAMA_CPP_PINNED} (llama.cpp's structs change with every release)")
endif()
message(STATUS "llama-cpp-python ${BLUELM_LLAMA_CPP_VERSION} in ${BLUELM_LLAMA_CPP_PACKAGE}")

find_path(BLUELM_LLAMA_INCLUDE_DIR llama.h
  PATHS "${BLUELM_LLAMA_CPP_PACKAGE}/../include" "${BLUELM_LLAMA_CPP_PACKAGE}/include"
  NO_DEFAULT_PATH REQUIRED)
set(BLUELM_LLAMA_INCLUDE_DIRS "${BLUELM_LLAMA_INCLUDE_DIR}")
set(BLUELM_LLAMA_LIBRARIES "")
foreach(name llama ggml ggml-base ggml-cpu mtmd)
  string(MAKE_C_IDENTIFIER "BLUELM_LIB_${name}" variable)
  find_library(${variable} ${name} PATHS "${BLUELM_LLAMA_CPP_PACKAGE}/lib" NO_DEFAULT_PATH REQUIRED)
  list(APPEND BLUELM_LLAMA_LIBRARIES "${${variable}}")
endforeach()
set(BLUELM_GGML_LIBRARIES "${BLUELM_LLAMA_LIBRARIES}")
list(REMOVE_AT BLUELM_GGML_LIBRARIES 0)
find_file(BLUELM_GGML_VERSION_FILE ggml-config-version.cmake
  PATHS "${BLUELM_LLAMA_CPP_PACKAGE}/../lib/cmake/ggml" "${BLUELM_LLAMA_CPP_PACKAGE}/lib/cmake/ggml" NO_DEFAULT_PATH)
set(BLUELM_GGML_VERSION "")
if(BLUELM_GGML_VERSION_FILE)
  file(STRINGS "${BLUELM_GGML_VERSION_FILE}" BLUELM_GGML_VERSION REGEX "^set\\(PACKAGE_VERSION \"" LIMIT_COUNT 1)
  string(REGEX REPLACE ".*\"(.*)\".*" "\\1" BLUELM_GGML_VERSION "${BLUELM_GGML_VERSION}")
endif()
