// Package cluster runs a whole cluster on one machine: certificates, the API
// server with its storage, controllers, scheduler, DNS, and the nodes. It joins
// the components, which know nothing of each other.
package cluster

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/atomicfile"
	"github.com/skiff-k8s/skiff/cluster/node"
	"github.com/skiff-k8s/skiff/controllers/services"
	"github.com/skiff-k8s/skiff/family"
	"github.com/skiff-k8s/skiff/kubelet"
	"github.com/skiff-k8s/skiff/podnet"
	"github.com/skiff-k8s/skiff/proxy/mode"
)

// Config says what cluster to run. The zero value of a field is its default.
type Config struct {
	// DataDir holds all that the cluster keeps; /var/lib/skiff.
	DataDir string
	// Storage is the URL of the storage engine; file:// in DataDir.
	Storage string
	// Settings are those of the API server.
	apiserver.Settings
	// Listen is the address of the API; 0.0.0.0:6443.
	Listen netip.AddrPort
	// Kubeconfig is a further place to write the administrator's kubeconfig to.
	Kubeconfig string
	// Nodes is how many nodes to run. The zero value runs none.
	Nodes int
	// FakeNodes is how many nodes without containers there are besides (package
	// fakenodes). They are tainted if there are others.
	FakeNodes int
	// Isolated puts the first node into a network namespace too, so that the
	// host's own rules and CNI settings stay as they are.
	Isolated bool
	// ServiceCIDRs, PodCIDRs and NodeCIDRs are the ranges of Service addresses, of
	// pods, and of nodes in namespaces. Their families are those of the cluster, the
	// primary one first; those that are not given are the standard ones (ranges.go)
	// of the families of those that are, or of IPv4.
	ServiceCIDRs, PodCIDRs, NodeCIDRs family.Ranges
	// PodNetwork is how the pods of different nodes reach each other; podnet.Route.
	PodNetwork podnet.Mode
	// LoadBalancers is where Services of type LoadBalancer have their addresses
	// from; the nodes.
	LoadBalancers services.Pool
	// Ingress is where nodes serve Ingresses; nowhere.
	Ingress node.Ingress
	// WithoutNetworkPolicy has nodes leave NetworkPolicies without effect.
	WithoutNetworkPolicy bool
	// Domain is the DNS domain of the cluster; cluster.local.
	Domain string
	// DNSCache has each node keep a cache of DNS answers for its pods.
	DNSCache bool
	// Tools is the folder with containerd and the other programs; "tools" beside
	// the running program.
	Tools string
	// Mirror is the URL of a registry that nodes ask first; none.
	Mirror string
	// MaxPods is how many pods a node offers to run; the kubelet's default.
	MaxPods int
	// Guard is what pods may use of their nodes; the kubelet's default.
	Guard kubelet.Guard
	// ProxyMode is how Services reach pods, a name that package proxy/mode knows;
	// iptables.
	ProxyMode string
	// NodePortAddresses are ranges of those addresses of the nodes at which node
	// ports answer; all.
	NodePortAddresses []netip.Prefix
	// Out is where progress is told; os.Stdout.
	Out io.Writer
	// Log gets what the components have to say; discarded.
	Log *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	c.DataDir = cmp.Or(c.DataDir, "/var/lib/skiff")
	dir, err := filepath.Abs(c.DataDir)
	if err != nil {
		return c, err
	}
	c.DataDir = dir
	if c.Kubeconfig != "" {
		if c.Kubeconfig, err = filepath.Abs(c.Kubeconfig); err != nil {
			return c, err
		}
	}
	c.Storage = cmp.Or(c.Storage, "file://"+filepath.Join(c.DataDir, "store"))
	c.fillRanges()
	c.Listen = everywhere(cmp.Or(c.Listen, netip.MustParseAddrPort("0.0.0.0:6443")), c.PodCIDRs)
	c.Domain = cmp.Or(c.Domain, "cluster.local")
	if c.Tools == "" {
		self, err := os.Executable()
		if err != nil {
			return c, err
		}
		c.Tools = filepath.Join(filepath.Dir(self), "tools")
	}
	// The path goes into command lines by which a killed run is found again. A
	// folder that is not there is what check complains about.
	if tools, err := filepath.EvalSymlinks(c.Tools); err == nil {
		c.Tools = tools
	}
	if c.Out == nil {
		c.Out = os.Stdout
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, errors.Join(c.Guard.Validate(), mode.Check(c.ProxyMode))
}

// instance tells clusters on one machine apart: links, namespaces and cgroups
// carry it in their names. It is empty for the default data directory.
func (c Config) instance() string {
	if c.DataDir == "/var/lib/skiff" {
		return ""
	}
	sum := sha256.Sum256([]byte(c.DataDir))
	return hex.EncodeToString(sum[:2])
}

func (c Config) network() network {
	n := network{
		bridge: "skiff" + c.instance(), owner: c.DataDir,
		nodes: c.NodeCIDRs, namespaces: namespaces(filepath.Join(c.DataDir, "netns")),
	}
	if c.Isolated {
		n.only = c.ServiceCIDRs // podnet leads to pods
	}
	return n
}

// dns are the addresses of the cluster's name server: the tenth of each Service
// range, as everywhere.
func (c Config) dns() []netip.Addr {
	var list []netip.Addr
	for _, p := range c.ServiceCIDRs {
		list = append(list, nth(p, 10))
	}
	return list
}

// member is a node of the cluster and where it lives.
type member struct {
	node.Config
	index     int
	namespace string // empty: the host's own
	link      string // the host's end of the cable into the namespace
}

// members lists the nodes of c; host are the machine's addresses.
func (c Config) members(host []netip.Addr) []member {
	members := make([]member, 0, c.Nodes)
	for i := range c.Nodes {
		m := member{
			index: i,
			Config: node.Config{
				Name:         "node-" + strconv.Itoa(i+1),
				Tools:        c.Tools,
				Addresses:    host,
				Bridge:       "cni0",
				PodNetwork:   c.PodNetwork,
				PodCIDRs:     c.PodCIDRs,
				NodeCIDRs:    c.NodeCIDRs,
				ServiceCIDRs: c.ServiceCIDRs, ClusterDNS: c.dns()[0], ClusterDomain: c.Domain,
				DNSCache: c.DNSCache,
				Mirror:   c.Mirror,
				MaxPods:  c.MaxPods,
				Ingress:  c.Ingress,
				Guard:    c.Guard,

				ProxyMode:            c.ProxyMode,
				NodePortAddresses:    c.NodePortAddresses,
				WithoutNetworkPolicy: c.WithoutNetworkPolicy,
			},
		}
		m.Dir = filepath.Join(c.DataDir, "nodes", m.Name)
		m.CgroupRoot = "/skiff" + c.instance() + "/" + m.Name
		if i > 0 || c.Isolated {
			m.namespace = "skiff" + c.instance() + "-" + m.Name
			m.link = "sk" + c.instance() + "-" + strconv.Itoa(i+1)
			m.Addresses, m.Routers = c.network().addresses(i), c.network().gateways()
		}
		members = append(members, m)
	}
	return members
}

// lock makes sure that one process at a time uses the data directory. The lock
// ends with the process, however that ends.
func (c Config) lock() (unlock func(), err error) {
	if err := atomicfile.Folder(c.DataDir, 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(c.DataDir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	for try := 0; errors.Is(err, syscall.EWOULDBLOCK) && try < 10; try++ {
		time.Sleep(20 * time.Millisecond) // isRunning has it for a moment
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another cluster is running with the data directory %s", c.DataDir)
		}
		return nil, err
	}
	return func() { file.Close() }, nil
}

// Up runs the cluster until ctx ends, then takes everything away again but the
// data directory. ready, if not nil, is called when the cluster is complete.
func Up(ctx context.Context, c Config, ready func()) error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.checkHost(); err != nil {
		return err
	}
	r := &run{Config: c, progress: newProgress(c.Out)}
	return r.up(ctx, ready)
}

// Down clears away what a run that was killed left on the machine.
func Down(c Config) error {
	if len(c.PodCIDRs) == 0 { // the run may have been of either family
		c.PodCIDRs = family.Ranges{standard[corev1.IPv4Protocol].pods, standard[corev1.IPv6Protocol].pods}
	}
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	if _, err := os.Stat(c.DataDir); err != nil {
		return fmt.Errorf("no cluster was ever there: %w", err)
	}
	unlock, err := c.lock()
	if err != nil {
		return fmt.Errorf("%w; end it with Ctrl-C", err)
	}
	defer unlock()
	return c.clean()
}
