# llama.cpp's source out of llama-cpp-python's sdist, for those who gave no BLUELM_LLAMA_CPP_DIR: sets it in the
# caller's scope. Fetched once, into build/; that needs pip and a network.
function(bluelm_fetch_llama_cpp)
  find_package(Python REQUIRED COMPONENTS Interpreter)
  set(directory "${CMAKE_SOURCE_DIR}/build/llama.cpp-${BLUELM_LLAMA_CPP_PINNED}")
  execute_process(
    COMMAND "${Python_EXECUTABLE}" "${CMAKE_SOURCE_DIR}/scripts/fetch_llama_cpp.py"
            --version "${BLUELM_LLAMA_CPP_PINNED}" "${directory}"
    RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "llama.cpp's source could not be fetched; give its directory as -DBLUELM_LLAMA_CPP_DIR=")
  endif()
  set(BLUELM_LLAMA_CPP_DIR "${directory}" PARENT_SCOPE)
endfunction()
