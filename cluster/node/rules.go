package node

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/family"
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

// ruledTables are those in which a node has rules.
var ruledTables = []string{"raw", "mangle", "nat", "filter"}

// checkRules is how often a node looks whether another program has taken its rules.
const checkRules = 10 * time.Second

// keepers keep the rules of a node, one those of each IP family.
type keepers map[corev1.IPFamily]*iptables.Keeper

func newKeepers(c Config) keepers {
	all := make(keepers)
	for _, f := range c.PodCIDRs.Families() {
		all[f] = newKeeper(f)
	}
	return all
}

func newKeeper(f corev1.IPFamily) *iptables.Keeper {
	hooks := []iptables.Hook{
		{Table: "nat", From: "POSTROUTING", Chain: masqueradeChain, Last: true},
		{Table: "filter", From: "FORWARD", Chain: strayChain, Last: true},
		{Table: "filter", From: "FORWARD", Chain: forwardChain, Last: true},
		{Table: "filter", From: "OUTPUT", Chain: strayChain, Last: true},
	}
	if f == corev1.IPv4Protocol {
		hooks = append(hooks,
			iptables.Hook{Table: "raw", From: "PREROUTING", Chain: cacheChain},
			iptables.Hook{Table: "raw", From: "OUTPUT", Chain: cacheChain},
			iptables.Hook{Table: "mangle", From: "PREROUTING", Chain: martianChain})
	}
	return iptables.NewKeeper(f, []string{"SKIFF-", hintChain}, hooks)
}

// apply makes the rules of each family.
func (k keepers) apply(ctx context.Context, c Config) error {
	for f, keeper := range k {
		if err := keeper.Apply(ctx, rules(c, f)...); err != nil {
			return err
		}
	}
	return nil
}

// rules are those of a node in a family.
func rules(c Config, f corev1.IPFamily) []*iptables.Rules {
	mangle := iptables.NewRules("mangle", hintChain)
	refusal := "icmp6-addr-unreachable"
	if f == corev1.IPv4Protocol {
		mangle, refusal = iptables.NewRules("mangle", martianChain, hintChain), "icmp-host-unreachable"
		// On the wire an address of the loopback is forged. With route_localnet the
		// kernel would take it: whoever can send to the node would reach what listens
		// on 127.0.0.1 (CVE-2020-8558), and pass for a process of the node. Answers of
		// node ports are not concerned, for they come to the node's address and are
		// translated later. Of IPv6 the kernel takes no such packet.
		mangle.Add(martianChain, "", "! -i lo -d 127.0.0.0/8 -j DROP")
		mangle.Add(martianChain, "", "! -i lo -s 127.0.0.0/8 -j DROP")
	}
	pods, _ := c.PodCIDRs.Of(f)
	nodes, _ := c.NodeCIDRs.Of(f)
	services, _ := c.ServiceCIDRs.Of(f)
	// Packets of pods, and of nodes that have this machine as their way out, leave
	// the cluster with the node's address.
	nat := iptables.NewRules("nat", masqueradeChain)
	nat.Add(masqueradeChain, "", "-d %s -j RETURN", pods)
	nat.Add(masqueradeChain, "", "-s %s -j MASQUERADE", pods)
	nat.Add(masqueradeChain, "", "-s %s ! -d %s -j MASQUERADE", nodes, nodes)
	// Packets for Service addresses that no Service has are refused, instead of
	// following the default route to wherever it leads. Answers are none of those: where Service addresses are
	// local, as for IPVS, the node asks from the address that it asks.
	filter := iptables.NewRules("filter", strayChain, forwardChain)
	filter.Add(strayChain, "", "-d %s -m conntrack --ctdir REPLY -j RETURN", services)
	filter.Add(strayChain, "", "-d %s -j REJECT --reject-with %s", services, refusal)
	// Docker and firewalls forward nothing that nobody lets pass. The mark is that of
	// the proxy's traffic with the node's address, whose answers are of known flows.
	filter.Add(forwardChain, "", "-m mark --mark 0x4000/0x4000 -j ACCEPT")
	filter.Add(forwardChain, "", "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
	for _, prefix := range []netip.Prefix{pods, nodes} {
		filter.Add(forwardChain, "", "-s %s -j ACCEPT", prefix)
		filter.Add(forwardChain, "", "-d %s -j ACCEPT", prefix)
	}
	if f == corev1.IPv4Protocol {
		return []*iptables.Rules{cacheRules(c), mangle, nat, filter}
	}
	return []*iptables.Rules{mangle, nat, filter}
}

// keepRules looks every so often whether another program has taken rules away, and
// puts them back, until ctx ends.
func keepRules(ctx context.Context, c Config, keepers keepers, every time.Duration, log *slog.Logger) {
	for ticker := time.NewTicker(every); ; {
		select {
		case <-ctx.Done():
			ticker.Stop()
			return
		case <-ticker.C:
		}
		for f, keeper := range keepers {
			intact, err := keeper.Intact(ctx)
			if err == nil && !intact {
				log.Warn("another program took rules of the node away, they are made again", "family", f)
				err = keeper.Apply(ctx, rules(c, f)...)
			}
			if err != nil && ctx.Err() == nil {
				log.Error("keep the rules of the node", "error", err)
			}
		}
	}
}

// removeRules takes away the rules of a node, of this run or an earlier one, which
// may have been of other families.
func removeRules() error {
	var errs []error
	for _, f := range family.All {
		if iptables.Supports(f) == nil {
			errs = append(errs, newKeeper(f).Remove(context.Background(), ruledTables...))
		}
	}
	return errors.Join(errs...)
}
