package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"text/template"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/atomicfile"
	"github.com/skiff-k8s/skiff/proxy/iptables"
)

// cacheAddress is where a node's cache of DNS answers listens: a link-local one, so that it is the same on every
// node and never leaves it. Other caches on nodes have it too, so that policies of users name it.
const cacheAddress = "169.254.20.10"

// cacheChain keeps lookups at the cache out of connection tracking: each would be an entry for half a minute.
const cacheChain = "SKIFF-DNS" // raw

// dnsCache is what the cache does. It asks the cluster's name servers by TCP, whose connections it keeps; what has
// become too old is given while they do not answer, for an hour.
var dnsCache = template.Must(template.New("Corefile").Parse(`.:53 {
    bind {{.Address}}
    errors
    cache 30 {
        success 9984 30
        denial 9984 5
        serve_stale 1h verify 1s
    }
    forward . {{.ClusterDNS}} {
        force_tcp
    }
}
`))

// startDNSCache starts the node's cache, in the place of one that an earlier run left behind. What it knew is
// forgotten.
func startDNSCache(c Config, log *slog.Logger) (*child, error) {
	var corefile bytes.Buffer
	if err := dnsCache.Execute(&corefile, map[string]any{"Address": cacheAddress, "ClusterDNS": c.ClusterDNS}); err != nil {
		return nil, err
	}
	if err := atomicfile.Write(c.dnsCacheFile(), corefile.Bytes(), 0o644); err != nil {
		return nil, err
	}
	if err := killDNSCache(c); err != nil {
		return nil, err
	}
	if err := setCacheAddress((*netlink.Handle).AddrReplace); err != nil {
		return nil, fmt.Errorf("address of the DNS cache: %w", err)
	}
	cache := &child{
		path: filepath.Join(c.Tools, "coredns"), args: []string{"-conf", c.dnsCacheFile()},
		logFile: filepath.Join(c.Dir, "dns-cache.log"), log: log,
	}
	return cache, cache.start()
}

// runDNSCache runs the cache until ctx ends.
func runDNSCache(ctx context.Context, c Config, log *slog.Logger) error {
	cache, err := startDNSCache(c, log)
	if err != nil {
		return err
	}
	return cache.supervise(ctx)
}

func (c Config) dnsCacheFile() string { return filepath.Join(c.Dir, "dns-cache.corefile") }

// nameServers are those of the node's pods. The second one is asked when nobody listens at the first, which the
// kernel says at once, or when it does not answer in time.
func (c Config) nameServers() []string {
	if c.DNSCache {
		return []string{cacheAddress, c.ClusterDNS.String()}
	}
	return []string{c.ClusterDNS.String()}
}

// killDNSCache ends the node's cache, whoever started it.
func killDNSCache(c Config) error {
	return killProcesses("coredns\x00-conf\x00"+c.dnsCacheFile()+"\x00", syscall.SIGTERM)
}

// removeCacheAddress takes the address away if the node had a cache: else it is of another program, if there is one.
func removeCacheAddress(c Config) error {
	if _, err := os.Stat(c.dnsCacheFile()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := setCacheAddress((*netlink.Handle).AddrDel); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return err
	}
	return os.Remove(c.dnsCacheFile())
}

// setCacheAddress does something with the address on the loopback, where pods reach it by their gateway.
func setCacheAddress(do func(*netlink.Handle, netlink.Link, *netlink.Addr) error) error {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer handle.Close()
	loopback, err := handle.LinkByName("lo")
	if err != nil {
		return err
	}
	return do(handle, loopback, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(cacheAddress).To4(), Mask: net.CIDRMask(32, 32)}})
}

// cacheRules are those for lookups at the cache and for answers. Without a cache the chain is empty.
func cacheRules(c Config) *iptables.Rules {
	raw := iptables.NewRules("raw", cacheChain)
	if !c.DNSCache {
		return raw
	}
	for _, protocol := range []string{"udp", "tcp"} {
		raw.Add(cacheChain, "", "-d %s -p %s --dport 53 -j CT --notrack", cacheAddress, protocol)
		raw.Add(cacheChain, "", "-s %s -p %s --sport 53 -j CT --notrack", cacheAddress, protocol)
	}
	return raw
}
