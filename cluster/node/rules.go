package node

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"time"

	"github.com/skiff-k8s/skiff/proxy/iptables"
)

// The chains in which a node keeps the rules about traffic that enters and leaves
// the cluster. Services are the proxy's business.
const (
	martianChain    = "SKIFF-MARTIAN"    // mangle
	masqueradeChain = "SKIFF-MASQUERADE" // nat
	strayChain      = "SKIFF-STRAY"      // filter
	forwardChain    = "SKIFF-FORWARD"    // filter
	// hintChain tells other programs which of the two kinds of iptables the node
	// uses. They look for it by this name.
	hintChain = "KUBE-IPTABLES-HINT" // mangle
)

// checkRules is how often a node looks whether another program has taken its rules.
const checkRules = 10 * time.Second

func newRules() *iptables.Keeper {
	return iptables.NewKeeper([]string{"SKIFF-", hintChain}, []iptables.Hook{
		{Table: "mangle", From: "PREROUTING", Chain: martianChain},
		{Table: "nat", From: "POSTROUTING", Chain: masqueradeChain, Last: true},
		{Table: "filter", From: "FORWARD", Chain: strayChain, Last: true},
		{Table: "filter", From: "FORWARD", Chain: forwardChain, Last: true},
		{Table: "filter", From: "OUTPUT", Chain: strayChain, Last: true},
	})
}

// rules are those of a node.
func rules(c Config) []*iptables.Rules {
	// On the wire an address of the loopback is forged. With route_localnet the
	// kernel would take it: whoever can send to the node would reach what listens
	// on 127.0.0.1 (CVE-2020-8558), and pass for a process of the node. Answers of
	// node ports are not concerned, for they come to the node's address and are
	// translated later.
	mangle := iptables.NewRules("mangle", martianChain, hintChain)
	mangle.Add(martianChain, "", "! -i lo -d 127.0.0.0/8 -j DROP")
	mangle.Add(martianChain, "", "! -i lo -s 127.0.0.0/8 -j DROP")
	// Packets of pods, and of nodes that have this machine as their way out, leave
	// the cluster with the node's address.
	nat := iptables.NewRules("nat", masqueradeChain)
	nat.Add(masqueradeChain, "", "-d %s -j RETURN", c.PodCIDR)
	nat.Add(masqueradeChain, "", "-s %s -j MASQUERADE", c.PodCIDR)
	nat.Add(masqueradeChain, "", "-s %s ! -d %s -j MASQUERADE", c.NodeCIDR, c.NodeCIDR)
	// Packets for Service addresses that no Service has are refused, instead of
	// following the default route to wherever it leads.
	filter := iptables.NewRules("filter", strayChain, forwardChain)
	filter.Add(strayChain, "", "-d %s -j REJECT --reject-with icmp-host-unreachable", c.ServiceCIDR)
	// Docker and firewalls forward nothing that nobody lets pass.
	for _, prefix := range []fmt.Stringer{c.PodCIDR, c.NodeCIDR} {
		filter.Add(forwardChain, "", "-s %s -j ACCEPT", prefix)
		filter.Add(forwardChain, "", "-d %s -j ACCEPT", prefix)
	}
	return []*iptables.Rules{mangle, nat, filter}
}

// keepRules looks every so often whether another program has taken rules away, and
// puts them back, until ctx ends.
func keepRules(ctx context.Context, c Config, keeper *iptables.Keeper, every time.Duration, log *slog.Logger) {
	for ticker := time.NewTicker(every); ; {
		select {
		case <-ctx.Done():
			ticker.Stop()
			return
		case <-ticker.C:
		}
		intact, err := keeper.Intact(ctx)
		if err == nil && !intact {
			log.Warn("another program took rules of the node away, they are made again")
			err = keeper.Apply(ctx, rules(c)...)
		}
		if err != nil && ctx.Err() == nil {
			log.Error("keep the rules of the node", "error", err)
		}
	}
}

// removeRules takes away the rules of a node, of this run or an earlier one.
func removeRules() error {
	return newRules().Remove(context.Background(), "mangle", "nat", "filter")
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
