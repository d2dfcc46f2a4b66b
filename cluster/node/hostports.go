package node

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/skiff-k8s/skiff/family"
	"github.com/skiff-k8s/skiff/proxy/iptables"
)

// The chains of the portmap plugin in the table nat. All networks of a machine share those that begin with sharedPorts;
// in entryOfPorts each pod has rules that lead to a chain of its own, which begins with podPorts.
const (
	sharedPorts  = "CNI-HOSTPORT-"
	entryOfPorts = sharedPorts + "DNAT"
	podPorts     = "CNI-DN-"
)

// removeHostPortRules removes what the portmap plugin made for pods of the node, in each family: it is not asked for those
// that are killed.
func removeHostPortRules() error {
	ctx := context.Background()
	var errs []error
	for _, f := range family.All {
		if iptables.Supports(f) != nil {
			continue
		}
		saved, err := iptables.Save(ctx, f, "nat")
		if err == nil {
			err = iptables.NewKeeper(f, hostPortChains(saved), nil).Remove(ctx, "nat")
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// hostPortChains are the beginnings of the names of the chains that are the node's, of what iptables-save says. While
// another network has host ports (a container engine's, say), these are the chains of the node's pods alone.
func hostPortChains(saved string) []string {
	var own []string
	shared := false
	for line := range strings.Lines(saved) {
		rule, entry := strings.CutPrefix(strings.TrimSpace(line), "-A "+entryOfPorts+" ")
		_, chain, jumps := strings.Cut(rule, " -j ")
		switch {
		case !entry:
		case jumps && strings.Contains(rule, `"dnat name: \"`+cniNetwork+`\" id: `):
			own = append(own, chain)
		default:
			shared = true
		}
	}
	if !shared {
		return []string{sharedPorts, podPorts}
	}
	return slices.Compact(slices.Sorted(slices.Values(own)))
}
