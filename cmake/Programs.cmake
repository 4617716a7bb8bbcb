# Programs on top of libbluelm and llama.cpp.

# Links `target` with libbluelm and llama.cpp. level: one of BLUELM_CPU_LEVELS, or "" without levels. library: bluelm
# (the shared one, of the wheel), bluelm_objects (all of it, private names too), or "" for llama.cpp alone.
function(bluelm_link target library level)
  target_include_directories(${target} SYSTEM PRIVATE ${BLUELM_LLAMA_INCLUDE_DIRS})
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wshadow -Wno-missing-field-initializers)
  if(library)
    target_link_libraries(${target} PRIVATE ${library})
  endif()
  if(level STREQUAL "")
    target_link_libraries(${target} PRIVATE ${BLUELM_LLAMA_LIBRARIES} Threads::Threads)
  else()
    # By file: through the targets, ggml would bring the lowest level's kernels along.
    target_link_libraries(${target} PRIVATE
      $<TARGET_FILE:llama> $<TARGET_FILE:ggml> $<TARGET_FILE:ggml-cpu-${level}> $<TARGET_FILE:ggml-base>
      Threads::Threads ${CMAKE_DL_LIBS} m)
    get_target_property(kernels ggml-cpu-${level} ALIASED_TARGET)
    if(NOT kernels)
      set(kernels ggml-cpu-${level})
    endif()
    add_dependencies(${target} llama ggml ggml-base ${kernels})
  endif()
  if(BLUELM_STANDALONE)
    target_link_options(${target} PRIVATE -Wl,--gc-sections $<$<NOT:$<CONFIG:Debug>>:-s>)
  endif()
endfunction()

# A program in bin/. With levels: one in bin/LEVEL/ for each, and in bin/ the launcher that starts one of them.
# All of them together are what is pushed to a phone; nothing outside bin/ is needed.
function(bluelm_add_tool name)
  set(bin "${CMAKE_BINARY_DIR}/bin")
  if(NOT BLUELM_CPU_LEVELS)
    add_executable(${name} ${ARGN})
    set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${bin}")
    if(BLUELM_STANDALONE)
      bluelm_link(${name} bluelm_objects "")
    else()
      bluelm_link(${name} bluelm "")
    endif()
    return()
  endif()
  add_library(${name}_objects OBJECT ${ARGN})
  target_include_directories(${name}_objects PRIVATE "${CMAKE_SOURCE_DIR}/cpp/include")
  target_include_directories(${name}_objects SYSTEM PRIVATE ${BLUELM_LLAMA_INCLUDE_DIRS})
  target_compile_options(${name}_objects PRIVATE -Wall -Wextra -Wshadow -Wno-missing-field-initializers)
  foreach(level IN LISTS BLUELM_CPU_LEVELS)
    add_executable(${name}.${level})
    target_link_libraries(${name}.${level} PRIVATE ${name}_objects)
    bluelm_link(${name}.${level} bluelm_objects ${level})
    set_target_properties(${name}.${level} PROPERTIES
      OUTPUT_NAME ${name} RUNTIME_OUTPUT_DIRECTORY "${bin}/${level}" LINKER_LANGUAGE CXX)
  endforeach()
  add_executable(${name} "${CMAKE_SOURCE_DIR}/cpp/tools/launcher.c")
  target_compile_options(${name} PRIVATE -Wall -Wextra)
  target_link_options(${name} PRIVATE -Wl,--gc-sections -s)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${bin}")
endfunction()

# stb_image.h: llama.cpp's source has a copy.
function(bluelm_find_stb)
  if(NOT BLUELM_LLAMA_CPP_DIR)
    bluelm_fetch_llama_cpp()
  endif()
  set(BLUELM_STB_INCLUDE_DIR "${BLUELM_LLAMA_CPP_DIR}/vendor" PARENT_SCOPE)
endfunction()
