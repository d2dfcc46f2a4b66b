package node

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
)

// The chains in which a node keeps the rules about traffic that leaves the
// cluster. Services are the proxy's business.
const (
	masqueradeChain = "SKIFF-MASQUERADE" // nat
	strayChain      = "SKIFF-STRAY"      // filter
)

// hooks are the places from which the chains are called.
var hooks = []struct{ table, from, chain string }{
	{"nat", "POSTROUTING", masqueradeChain},
	{"filter", "FORWARD", strayChain},
	{"filter", "OUTPUT", strayChain},
}

// masqueradeRules is the iptables-restore input for c: packets of pods, and of
// nodes that have this machine as their way out, leave the cluster with the
// node's address, and packets for Service addresses that no Service has are
// refused here, instead of following the default route to wherever it leads.
func masqueradeRules(c Config) string {
	return strings.Join([]string{
		"*nat",
		":" + masqueradeChain + " - [0:0]",
		fmt.Sprintf("-A %s -d %s -j RETURN", masqueradeChain, c.PodCIDR),
		fmt.Sprintf("-A %s -s %s -j MASQUERADE", masqueradeChain, c.PodCIDR),
		fmt.Sprintf("-A %s -s %s ! -d %s -j MASQUERADE", masqueradeChain, c.NodeCIDR, c.NodeCIDR),
		"COMMIT",
		"*filter",
		":" + strayChain + " - [0:0]",
		fmt.Sprintf("-A %s -d %s -j REJECT --reject-with icmp-host-unreachable", strayChain, c.ServiceCIDR),
		"COMMIT", "",
	}, "\n")
}

func applyMasquerade(c Config) error {
	if err := runIptables(masqueradeRules(c), "iptables-restore", "--noflush", "-w"); err != nil {
		return err
	}
	for _, h := range hooks {
		if runIptables("", "iptables", "-w", "-t", h.table, "-C", h.from, "-j", h.chain) == nil {
			continue
		}
		if err := runIptables("", "iptables", "-w", "-t", h.table, "-A", h.from, "-j", h.chain); err != nil {
			return err
		}
	}
	return nil
}

// removeMasquerade takes away what applyMasquerade made; what is not there is
// no error.
func removeMasquerade() {
	for _, h := range hooks {
		_ = runIptables("", "iptables", "-w", "-t", h.table, "-D", h.from, "-j", h.chain)
	}
	for _, h := range hooks {
		_ = runIptables("", "iptables", "-w", "-t", h.table, "-F", h.chain)
		_ = runIptables("", "iptables", "-w", "-t", h.table, "-X", h.chain)
	}
}

func runIptables(input string, command string, args ...string) error {
	cmd := exec.Command(command, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", command, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
