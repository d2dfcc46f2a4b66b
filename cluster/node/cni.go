package node

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/skiff-k8s/skiff/atomicfile"
	"github.com/skiff-k8s/skiff/podnet"
)

// cniNetwork is the name of the network of pods. The plugins write it beside what they make.
const cniNetwork = "skiff"

// writeCNIConfig replaces the configuration if the node's share of the pod network
// is another than before; the runtime notices by itself. Without a
// configuration the runtime reports its network as not ready, and so does the node.
func writeCNIConfig(c Config, share podnet.Share) error {
	data, err := cniConfig(c, share)
	if err != nil {
		return err
	}
	file := filepath.Join(c.Dir, "cni", "conf", "10-skiff.conflist")
	if old, err := os.ReadFile(file); err == nil && string(old) == string(data) {
		return nil
	}
	// The runtime, which looks for this file by its suffix, never reads half of one.
	return atomicfile.Write(file, data, 0o644)
}

// cniConfig joins the pods of a node by a bridge and serves their host ports.
// Traffic to the rest of the cluster is routed by the host, with the pod's own
// address: what must be masqueraded is decided in rules.go.
func cniConfig(c Config, share podnet.Share) ([]byte, error) {
	type object = map[string]any
	// A pod has an address of each range, in this order, and can reach all of its
	// families.
	var ranges [][]object
	var routes []object
	for _, pods := range share.Pods {
		ranges = append(ranges, []object{{"subnet": pods}})
		routes = append(routes, object{"dst": everything(pods.Addr())})
	}
	data, err := json.MarshalIndent(object{
		"cniVersion": "1.0.0",
		"name":       cniNetwork,
		"plugins": []object{
			{
				"type":        "bridge",
				"bridge":      c.Bridge,
				"isGateway":   true,
				"hairpinMode": true,
				"mtu":         share.MTU,
				"ipam": object{
					"type":    "host-local",
					"dataDir": filepath.Join(c.Dir, "cni", "ipam"),
					"ranges":  ranges,
					"routes":  routes,
				},
			},
			{
				"type":         "portmap",
				"capabilities": object{"portMappings": true},
				"snat":         true,
			},
		},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode CNI configuration: %w", err)
	}
	return data, nil
}

// everything is the range of all addresses of the family of one.
func everything(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}
