# The targets of the library, installed or in the source tree: tinygptv::tinygptv (shared) and tinygptv::static.

# tinygptv_add_targets(SHARED file SONAME name STATIC file INCLUDE folder)
function(tinygptv_add_targets)
  cmake_parse_arguments(ARG "" "SHARED;SONAME;STATIC;INCLUDE" "" ${ARGN})
  if(TARGET tinygptv::tinygptv)
    return()
  endif()

  add_library(tinygptv::tinygptv SHARED IMPORTED GLOBAL)
  set_target_properties(tinygptv::tinygptv PROPERTIES
    IMPORTED_LOCATION "${ARG_SHARED}"
    IMPORTED_SONAME "${ARG_SONAME}"
    INTERFACE_INCLUDE_DIRECTORIES "${ARG_INCLUDE}")

  # Inside are C++ and Rust, whose runtimes the host links.
  if(APPLE)
    set(libraries c++ m)
  else()
    set(libraries stdc++ m dl pthread)
  endif()
  add_library(tinygptv::static STATIC IMPORTED GLOBAL)
  set_target_properties(tinygptv::static PROPERTIES
    IMPORTED_LOCATION "${ARG_STATIC}"
    INTERFACE_LINK_LIBRARIES "${libraries}"
    INTERFACE_INCLUDE_DIRECTORIES "${ARG_INCLUDE}")
endfunction()
