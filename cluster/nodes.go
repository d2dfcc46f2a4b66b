package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/skiff-k8s/skiff/atomicfile"
	"github.com/skiff-k8s/skiff/cluster/image"
	"github.com/skiff-k8s/skiff/cluster/node"
	"github.com/skiff-k8s/skiff/controlplane"
	"github.com/skiff-k8s/skiff/family"
	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/podnet"
)

// startNodes starts all members, side by side.
func (r *run) startNodes(ctx context.Context, members []member) error {
	if len(members) == 0 {
		return nil
	}
	if err := r.step("images made on the spot", r.makeImages); err != nil {
		return err
	}
	if err := r.step("network", func() error { return r.connect(members) }); err != nil {
		return err
	}
	for i := range members {
		members[i].Images = []string{r.archive.pause, r.archive.dns}
		if err := r.credentials(&members[i]); err != nil {
			return err
		}
	}
	r.start("certificates of kubelets", ctx, func(ctx context.Context) error { return r.approveServing(ctx, members) })
	if members[0].namespace != "" {
		r.start("routes", ctx, r.leadToPods)
	}
	for _, m := range members {
		if m.namespace == "" {
			r.start(m.Name, ctx, func(ctx context.Context) error { return r.runHere(ctx, m) })
		} else {
			r.start(m.Name, ctx, func(ctx context.Context) error { return r.runChild(ctx, m) })
		}
	}
	return nil
}

// makeImages makes the images no cluster can do without.
func (r *run) makeImages() (err error) {
	dir := filepath.Join(r.DataDir, "images")
	pause := image.Image{
		Reference: node.PauseImage,
		Layers:    []image.Layer{{image.File{From: filepath.Join(r.Tools, "pause"), To: "pause"}}},
		Config:    v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"},
	}
	if r.archive.pause, err = pause.Ensure(dir); err != nil {
		return err
	}
	dns := image.Image{
		Reference: dnsImage,
		Layers:    []image.Layer{{image.File{From: filepath.Join(r.Tools, "coredns"), To: "coredns"}}},
		Config:    v1.Config{Entrypoint: []string{"/coredns"}},
	}
	r.archive.dns, err = dns.Ensure(dir)
	return err
}

// connect makes the bridge and the namespaces the members need.
func (r *run) connect(members []member) error {
	n := r.network()
	for _, m := range members {
		if m.namespace == "" {
			continue
		}
		if err := n.ensureBridge(); err != nil {
			return fmt.Errorf("bridge %s: %w", n.bridge, err)
		}
		if err := n.ensureNamespace(m.namespace, m.link, m.Addresses); err != nil {
			return err
		}
		// This machine routes between the nodes.
		if err := node.Forward(r.DataDir, r.PodCIDRs.Families()); err != nil {
			return err
		}
	}
	return r.leadToBalancers(members[0])
}

// leadToPods keeps routes to the pods of all nodes on a machine that is none of them: the API server calls webhooks
// and other servers there.
func (r *run) leadToPods(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(r.plane.config(adminUser))
	if err != nil {
		return err
	}
	return podnet.Run(ctx, podnet.Config{Client: client, Ranges: r.PodCIDRs, Log: r.Log.With("component", "podnet")})
}

// leadToBalancers makes routes to the range of load balancers by the first node,
// if that is not this machine: any node takes traffic for them.
func (r *run) leadToBalancers(first member) error {
	if first.namespace == "" {
		return nil
	}
	for _, prefix := range r.LoadBalancers.Prefixes() {
		for _, via := range first.Addresses {
			if family.Of(via) != family.Of(prefix.Addr()) {
				continue
			}
			if err := netlink.RouteReplace(&netlink.Route{Dst: ipNet(prefix), Gw: via.AsSlice()}); err != nil {
				return fmt.Errorf("route to the load balancers of %s: %w", prefix, err)
			}
		}
	}
	return nil
}

// credentials gives a member its serving certificate.
func (r *run) credentials(m *member) error {
	name := "kubelet-serving-" + m.Name
	hosts := []string{m.Name}
	for _, a := range m.Addresses {
		hosts = append(hosts, a.String())
	}
	if _, err := r.pki.Server(name, "system:node:"+m.Name, hosts...); err != nil {
		return err
	}
	m.CA = r.pki.CA()
	m.CertFile, m.KeyFile = r.pki.Files(name)
	return nil
}

// runHere runs a node in this process, reaching the API server in process too.
func (r *run) runHere(ctx context.Context, m member) error {
	if err := os.MkdirAll(m.Dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(hostMark(m), nil, 0o644); err != nil {
		return err
	}
	clients := node.Clients{Kubelet: r.plane.config(nodeUser(m.Name)), Proxy: r.plane.config(proxyUser), Ingress: r.plane.config(ingressUser), NetworkPolicy: r.plane.config(policyUser)}
	return node.Run(ctx, m.Config, clients, r.Log.With("node", m.Name), func() {})
}

// hostMark is the file that says that a node ran in the host's own namespace.
func hostMark(m member) string { return filepath.Join(m.Dir, "on-host") }

// childConfig is what a node process is told, as JSON in a file.
type childConfig struct {
	Node                                                                           node.Config
	KubeletKubeconfig, ProxyKubeconfig, IngressKubeconfig, NetworkPolicyKubeconfig string
}

// runChild runs a node as a process in its namespace. The process ends itself,
// leaving its containers, when this one dies: it notices by its standard input.
func (r *run) runChild(ctx context.Context, m member) error {
	if err := os.MkdirAll(m.Dir, 0o755); err != nil {
		return err
	}
	file, err := r.writeChildConfig(m)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(m.Dir, "node.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(self, "node", "--config", file)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Cloneflags: syscall.CLONE_NEWUTS} // see nameHost
	leash, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	defer leash.Close()
	if err := r.network().namespaces.in(m.namespace, cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", m.Name, err)
	}
	exited := make(chan error, 1)
	guard.Go("node", func() { exited <- cmd.Wait() })
	select {
	case err := <-exited:
		err = fmt.Errorf("the process of the node ended: %w; see %s", err, log.Name())
		return r.outlive(ctx, m, err)
	case <-ctx.Done():
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-exited:
	case <-time.After(stopTimeout):
		_ = cmd.Process.Kill()
		<-exited
	}
	return nil
}

// outlive goes on without a node, as a cluster does when a machine fails: its
// pods are replaced on others. Before the cluster is up it is an error.
func (r *run) outlive(ctx context.Context, m member, err error) error {
	select {
	case <-r.complete:
	default:
		return err
	}
	r.say("%s: %v; it comes back with the next start", m.Name, err)
	<-ctx.Done()
	return nil
}

func (r *run) writeChildConfig(m member) (string, error) {
	c := childConfig{Node: m.Config}
	for _, k := range []struct {
		file *string
		user identity
	}{{&c.KubeletKubeconfig, nodeUser(m.Name)}, {&c.ProxyKubeconfig, proxyUser}, {&c.IngressKubeconfig, ingressUser}, {&c.NetworkPolicyKubeconfig, policyUser}} {
		*k.file = filepath.Join(m.Dir, k.user.file+".kubeconfig")
		if err := r.writeKubeconfig(*k.file, k.user); err != nil {
			return "", err
		}
	}
	data, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	file := filepath.Join(m.Dir, "node.json")
	return file, atomicfile.Write(file, data, 0o600)
}

// RunNode is a node process: it runs the node of a file written by Up until
// ctx ends, then clears it away. When leash ends first, the cluster's process
// has died: RunNode returns at once and containers run on.
func RunNode(ctx context.Context, file string, leash io.Reader, log *slog.Logger) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var c childConfig
	if err := json.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	var clients node.Clients
	for _, k := range []struct {
		config **rest.Config
		file   string
	}{{&clients.Kubelet, c.KubeletKubeconfig}, {&clients.Proxy, c.ProxyKubeconfig}, {&clients.Ingress, c.IngressKubeconfig}, {&clients.NetworkPolicy, c.NetworkPolicyKubeconfig}} {
		if *k.config, err = clientcmd.BuildConfigFromFlags("", k.file); err != nil {
			return err
		}
		controlplane.Tune(*k.config)
	}
	if err := nameHost(c.Node.Name); err != nil {
		return err
	}
	err = whileHeld(ctx, leash, func(ctx context.Context) error { return c.run(ctx, clients, log) })
	if errors.Is(err, errOrphaned) {
		return err
	}
	return errors.Join(err, node.Clean(c.Node))
}

var errOrphaned = errors.New("the cluster's process has died")

// whileHeld calls f. When leash ends first it returns errOrphaned at once, and f goes on until the process ends: at the end
// of its context f would end what is to outlive it.
func whileHeld(ctx context.Context, leash io.Reader, f func(context.Context) error) error {
	orphaned := make(chan struct{})
	guard.Go("node", func() { _, _ = io.Copy(io.Discard, leash); close(orphaned) })
	ended := make(chan error, 1)
	guard.Go("node", func() {
		ended <- guard.Call("node", func() error { return f(ctx) })
	})
	select {
	case <-orphaned:
		return errOrphaned
	case err := <-ended:
		return err
	}
}

// run runs the node with a client certificate that its kubelet has asked for: the one that the cluster made is the first.
func (c childConfig) run(ctx context.Context, clients node.Clients, log *slog.Logger) error {
	own, err := c.Node.ClientCertificate(clients.Kubelet)
	if err != nil {
		return fmt.Errorf("client certificate of the kubelet: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(guard.Try("client certificate", func() error { return own.Run(ctx) }))
	group.Go(guard.Try("node", func() error {
		if clients.Kubelet, err = own.Config(ctx); err != nil {
			return err
		}
		return node.Run(ctx, c.Node, clients, log, func() {})
	}))
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// nameHost gives the node a host name of its own, as a machine has one: pods in the node's network see it. Nodes of one
// machine would share its name.
func nameHost(name string) error {
	own, err := os.Readlink("/proc/self/ns/uts")
	if err != nil {
		return err
	}
	parent, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/uts", os.Getppid()))
	if err != nil {
		return err
	}
	if own == parent {
		return errors.New("this process would rename the machine: skiff up starts it in a namespace of its own")
	}
	return unix.Sethostname([]byte(name))
}

// clean removes what the nodes of an earlier or of this run left on the machine.
func (c Config) clean() error {
	var errs []error
	entries, err := os.ReadDir(filepath.Join(c.DataDir, "nodes"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// As many members as there are folders: an earlier run may have had more
	// nodes than this one, and another place for the first.
	c.Nodes = len(entries)
	for _, isolated := range []bool{false, true} {
		c.Isolated = isolated
		for _, m := range c.members(nil) {
			errs = append(errs, c.cleanMember(m))
		}
	}
	errs = append(errs, node.RemoveCgroups("/skiff"+c.instance()), node.RemoveLink(c.network().bridge), c.network().namespaces.removeFolder(), podnet.RemoveRoutes(c.PodCIDRs...), node.RestoreKernel(c.DataDir))
	return errors.Join(errs...)
}

func (c Config) cleanMember(m member) error {
	if m.namespace == "" {
		if _, err := os.Stat(hostMark(m)); err != nil {
			return nil
		}
		return errors.Join(node.Clean(m.Config), os.Remove(hostMark(m)))
	}
	namespaces := c.network().namespaces
	err := namespaces.in(m.namespace, func() error { return node.Clean(m.Config) })
	if errors.Is(err, os.ErrNotExist) {
		err = node.CleanMachine(m.Config)
	}
	return errors.Join(err, namespaces.remove(m.namespace), node.RemoveLink(m.link))
}
