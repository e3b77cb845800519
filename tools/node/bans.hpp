// `papilio-node bans`: whom a node has banned, why and until when, and how its owner forgives. Works on the node's
// state directory, whether or not the node runs.
#pragma once

namespace papilio::tools {

// The arguments from "bans" on; argv[0] is it. Returns the process's exit code.
int main_of_bans(int argc, char** argv);

}  // namespace papilio::tools
