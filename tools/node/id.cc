#include "tools/node/id.hpp"

#include <cstdio>
#include <string>

#include "engine/node/state_directory.hpp"
#include "tools/common/command_line.hpp"
#include "tools/node/settings.hpp"
#include "transport/identity.hpp"

namespace papilio::tools {
namespace {

constexpr std::size_t kIdDigits = 64;

ManualPage id_page() {
  ManualPage page;
  page.name = "papilio-node id";
  page.summary = "print who a node is";
  page.synopsis = {"--state-dir DIR [--json FILE]"};
  page.description =
      "Prints the id of the node with this state directory, 64 hexadecimal digits: what the others name with --allow, "
      "--deny and --judge. It is the hash of the public key of the node's key pair, which is kept in "
      "DIR/identity.pem, readable for its owner only; whoever holds that file is that node. Where there is none yet, "
      "it is made, and DIR, too.";
  page.examples = {"papilio-node id --state-dir state"};
  return page;
}

}  // namespace

int main_of_id(int argc, char** argv) {
  CommandLine command_line(id_page());
  std::string directory;
  add_text(command_line.app(), "--state-dir", directory, "DIR", "The node's state directory.")->required();
  if (const auto code = command_line.parse(argc, argv)) return *code;
  if (auto made = make_directory("state-dir", directory); !made) return command_line.fail(made.error());
  const auto identity = transport::Identity::load_or_create(node::identity_path(directory));
  if (!identity) return command_line.fail(identity.error());
  const std::string id = to_hex(identity->id(), kIdDigits);
  std::fprintf(command_line.out(), "%s\n", id.c_str());
  if (auto written = command_line.write_json({{"peer", id}, {"public_key", transport::to_hex(identity->public_key())}});
      !written) {
    return command_line.fail(written.error());
  }
  return kExitDone;
}

}  // namespace papilio::tools
