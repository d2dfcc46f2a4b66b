package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/family"
	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/proxy/mode"
)

const (
	readyTimeout = 2 * time.Minute
	stopTimeout  = 30 * time.Second
)

// run is one cluster that is up, or on its way.
type run struct {
	Config
	*progress
	pki     *PKI
	proxies *PKI // of front proxies
	plane   *controlPlane
	// addresses are those of this machine, one of each family of the cluster.
	addresses []netip.Addr
	archive   struct{ pause, dns string }

	// complete is closed when all nodes are ready.
	complete chan struct{}
	// failed gets the first error of a part that ended by itself.
	failed chan error
	parts  guard.Group
}

// chooseProxyMode finds the mode for all nodes, which share the kernel.
func (r *run) chooseProxyMode() error {
	if r.Nodes == 0 {
		r.ProxyMode = ""
		return nil
	}
	chosen, err := mode.Choose(r.ProxyMode)
	if err != nil {
		return err
	}
	r.ProxyMode = chosen.Name
	r.say("Services by %s", chosen.Name)
	return nil
}

// up starts the parts in the order in which they need each other, waits for
// the end, and stops them in the opposite order.
func (r *run) up(ctx context.Context, ready func()) (err error) {
	r.failed = make(chan error, 1)
	r.complete = make(chan struct{})
	if err := os.Remove(r.recordFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if r.addresses, err = r.advertised(); err != nil {
		return err
	}
	if err := r.chooseProxyMode(); err != nil {
		return err
	}
	members := r.members(r.addresses)

	planeCtx, stopPlane := context.WithCancel(context.WithoutCancel(ctx))
	nodesCtx, stopNodes := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		begin := time.Now()
		r.say("stopping …")
		stopNodes()
		err = errors.Join(err, r.waitParts(), r.clean())
		stopPlane()
		if r.plane != nil {
			err = errors.Join(err, r.plane.wait())
		}
		r.say("stopped in %v", time.Since(begin).Round(time.Millisecond))
	}()

	if err := r.step("certificates and kubeconfigs", func() (err error) {
		if r.pki, err = OpenPKI(pkiFolder(r.Config)); err != nil {
			return err
		}
		r.proxies, err = r.pki.FrontProxy()
		return err
	}); err != nil {
		return err
	}
	if err := r.step("API server on "+r.Listen.String(), func() (err error) {
		r.plane, err = startControlPlane(planeCtx, r)
		return err
	}); err != nil {
		return err
	}
	r.say("  API ready after %v", r.elapsed())
	r.start("controllers and scheduler", nodesCtx, r.plane.controllers)
	r.start("renewal of certificates", nodesCtx, r.renewCertificates)
	if err := r.addons(ctx); err != nil {
		return err
	}
	if err := r.startNodes(nodesCtx, members); err != nil {
		return err
	}
	if err := r.waitReady(ctx, members); err != nil {
		return err
	}
	close(r.complete)
	if err := r.record(); err != nil {
		return err
	}
	r.greet()
	if ready != nil {
		ready()
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-r.failed:
		return err
	}
}

// start runs a part of the cluster. One that ends by a panic is started again;
// one that ends otherwise before it is told to takes the cluster down with its
// error.
func (r *run) start(what string, ctx context.Context, part func(context.Context) error) {
	r.parts.Go(what, func() {
		err := guard.Keep(ctx, what, part)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("ended by itself")
		}
		select {
		case r.failed <- fmt.Errorf("%s: %w", what, err):
		default:
		}
	})
}

// advertised are the addresses by which pods and nodes reach this machine, one of
// each family of the cluster. The first is that of the API server.
func (r *run) advertised() ([]netip.Addr, error) {
	if r.Isolated {
		return r.network().gateways(), nil
	}
	var list []netip.Addr
	for _, f := range r.PodCIDRs.Families() {
		addr := r.Listen.Addr()
		if addr.IsUnspecified() || addr.IsLoopback() || family.Of(addr) != f {
			var err error
			if addr, err = hostAddress(f); err != nil {
				return nil, err
			}
		}
		list = append(list, addr)
	}
	return list, nil
}

// waitReady waits until every node reports Ready, and says when each did.
func (r *run) waitReady(ctx context.Context, members []member) error {
	if len(members) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	client, err := kubernetes.NewForConfig(r.plane.config(adminUser))
	if err != nil {
		return err
	}
	missing := make(map[string]bool, len(members))
	for _, m := range members {
		missing[m.Name] = true
	}
	nodes, err := client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	defer nodes.Stop()
	for len(missing) > 0 {
		select {
		case err := <-r.failed:
			return err
		case <-ctx.Done():
			return fmt.Errorf("nodes are not ready after %v: %w", readyTimeout, ctx.Err())
		case event, ok := <-nodes.ResultChan():
			if !ok {
				return errors.New("the watch of nodes ended")
			}
			n, isNode := event.Object.(*corev1.Node)
			if !isNode || event.Type == watch.Deleted || !missing[n.Name] || !readySince(n, r.begun) {
				continue
			}
			delete(missing, n.Name)
			r.say("  %s Ready after %v", n.Name, r.elapsed())
		}
	}
	return nil
}

// readySince reports whether the kubelet has said since begun that n is ready;
// what it said before an earlier end of the cluster does not count.
func readySince(n *corev1.Node, begun time.Time) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			// Times in the API have no fractions of a second.
			return c.Status == corev1.ConditionTrue && !c.LastHeartbeatTime.Time.Before(begun.Truncate(time.Second))
		}
	}
	return false
}

func (r *run) greet() {
	r.say("\nThe cluster is up (%v). In another terminal:\n", r.elapsed())
	r.say("  export KUBECONFIG=%s", cmp.Or(r.Kubeconfig, r.adminKubeconfig()))
	r.say("  kubectl get pods -A")
	r.say("\nCtrl-C stops it; the next start finds its objects.")
}

func (r *run) waitParts() error {
	done := make(chan struct{})
	guard.Go("cluster", func() { r.parts.Wait(); close(done) })
	select {
	case <-done:
	case <-time.After(stopTimeout):
		return fmt.Errorf("some parts did not stop within %v", stopTimeout)
	}
	return nil
}

func (c Config) adminKubeconfig() string { return filepath.Join(c.DataDir, "admin.kubeconfig") }
