// Package bootstrap makes the objects a cluster must have before anyone can
// use it: the system namespaces, the default RBAC roles and bindings, the
// system priority classes, the kubernetes Service with its endpoints, and what
// extension API servers need to trust this one. The tables hold what a
// Kubernetes 1.36 server makes.
package bootstrap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/family"
	"github.com/skiff-k8s/skiff/guard"
)

// Config says what the objects depend on.
type Config struct {
	Cluster resource.Cluster
	// Backend is where the servers of a cluster tell each other that they live;
	// nil: there is no other.
	Backend backend.Backend
	// Advertise is where pods and other machines reach this server. A loopback
	// address is not published as an endpoint.
	Advertise netip.AddrPort
	// ServiceCIDRs are the ranges of service addresses, ServiceIP the first of the
	// primary one, which is that of Service default/kubernetes.
	ServiceCIDRs family.Ranges
	ServiceIP    netip.Addr
	// ClientCA and FrontProxyCA are PEM certificates, FrontProxyNames the common
	// names front proxies may have; empty ones are not published.
	ClientCA, FrontProxyCA func() []byte
	FrontProxyNames        []string
	// Every is how often Run looks; 0 means every ten seconds.
	Every time.Duration
	// Seldom is how many times more seldom; 0 means once.
	Seldom int
}

// object is one that must exist. repair, if given, makes an object that is
// there what it must be and reports whether it changed anything. displaces, if
// given, reports that an object that is there cannot be repaired and is to be
// made anew.
type object struct {
	group, plural string
	want          resource.Object
	repair        func(have resource.Object) (changed bool)
	displaces     func(have resource.Object) bool
}

// Ensure makes what is missing and repairs what was changed. The objects are
// independent of each other and written together, so that a backend can commit
// them in groups. What another server is about to make, and does not come to, is left
// to Run.
func Ensure(ctx context.Context, c Config) error {
	if err := makeHeirs(ctx, c.Cluster); err != nil {
		return err
	}
	servers, err := c.alive(ctx)
	if err != nil {
		return err
	}
	objects := namespaces()
	objects = append(objects, rbacObjects()...)
	objects = append(objects, priorityClasses()...)
	objects = append(objects, fairness()...)
	objects = append(objects, c.endpointObjects(servers)...)
	objects = append(objects, c.trust()...)
	objects = append(objects, tracking(time.Now()))
	return ensure(ctx, c.Cluster, objects)
}

// Run keeps what must not be missing while the server runs: namespaces, the
// kubernetes Service and its endpoints, and what extension servers trust. It
// runs until ctx ends. It only writes when something is missing or changed.
func Run(ctx context.Context, c Config) error {
	ticker := time.NewTicker(cmp.Or(c.Every, 10*time.Second) * time.Duration(max(c.Seldom, 1)))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			c.gone()
			return nil
		case <-ticker.C:
		}
		if err := c.keep(ctx); err != nil && ctx.Err() == nil {
			slog.WarnContext(ctx, "system objects could not be kept", "error", err)
		}
	}
}

func (c Config) keep(ctx context.Context) error {
	servers, err := c.alive(ctx)
	if err != nil {
		return err
	}
	objects := append(namespaces(), c.endpointObjects(servers)...)
	objects = append(objects, tracking(time.Now()))
	return ensure(ctx, c.Cluster, append(objects, c.trust()...))
}

func ensure(ctx context.Context, cluster resource.Cluster, objects []object) error {
	const atOnce = 64
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for _, o := range objects {
		group.Go(guard.Try("bootstrap", func() error {
			err := o.settle(ctx, cluster)
			if raced(err) {
				slog.WarnContext(ctx, "a system object is left to be made later", "resource", o.plural, "namespace", o.want.GetNamespace(), "name", o.want.GetName(), "error", err)
				return nil
			}
			if err != nil {
				return fmt.Errorf("bootstrap %s %s/%s: %w", o.plural, o.want.GetNamespace(), o.want.GetName(), err)
			}
			return nil
		}))
	}
	return group.Wait()
}

// settle ensures an object that another server may be making at this moment.
func (o object) settle(ctx context.Context, cluster resource.Cluster) error {
	const patience = 2 * time.Second
	for wait := 20 * time.Millisecond; ; wait *= 2 {
		err := o.ensure(ctx, cluster)
		if !raced(err) || wait > patience {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// raced tells errors that another server causes that makes the same objects, or has
// ended in the middle of it: the address of a Service is claimed before the Service is
// there. They are no reason not to serve.
func raced(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsConflict(err) || apierrors.IsNotFound(err)
}

var errAsItShould = errors.New("nothing to repair")

func (o object) ensure(ctx context.Context, cluster resource.Cluster) error {
	kind := cluster.Resource(o.group, o.plural)
	if kind == nil {
		return errors.New("the kind is not served")
	}
	have, err := cluster.Get(ctx, kind, o.want.GetNamespace(), o.want.GetName())
	if err == nil && o.displaces != nil && o.displaces(have) {
		uid := have.GetUID()
		_, err = cluster.Delete(ctx, kind, have.GetNamespace(), have.GetName(), &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		have, err = cluster.Get(ctx, kind, o.want.GetNamespace(), o.want.GetName())
		if err == nil && o.displaces(have) {
			return errors.New("it was made by somebody else, and something holds it back from being deleted")
		}
	}
	if apierrors.IsNotFound(err) {
		have, err = cluster.Create(ctx, kind, o.want.DeepCopyObject().(resource.Object))
		if apierrors.IsAlreadyExists(err) {
			return nil // another server is doing the same
		}
	}
	if err != nil || o.repair == nil || !o.repair(have.DeepCopyObject().(resource.Object)) {
		return err
	}
	_, err = cluster.Update(ctx, kind, o.want.GetNamespace(), o.want.GetName(), false, func(obj resource.Object) error {
		if !o.repair(obj) {
			return errAsItShould
		}
		return nil
	})
	if errors.Is(err, errAsItShould) {
		return nil
	}
	return err
}
