// `papilio-node id`: who a node is, to be told to others, for their lists; makes the node's key where there is none
// yet.
#pragma once

namespace papilio::tools {

// The arguments from "id" on; argv[0] is it. Returns the process's exit code.
int main_of_id(int argc, char** argv);

}  // namespace papilio::tools
