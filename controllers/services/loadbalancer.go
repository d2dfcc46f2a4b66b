package services

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

const (
	// balancerFinalizer keeps a Service until its addresses are free again. Other controllers of load balancers use the
	// same one.
	balancerFinalizer = "service.kubernetes.io/load-balancer-cleanup"
	// balancerManager owns the fields this controller writes. By it a Service that is no load balancer any more is known
	// to have been one of ours.
	balancerManager = "skiff-load-balancer"
)

// allBalancers is the one key: ports and addresses are shared, so that each Service matters to the others.
var allBalancers = reconcile.Key{Name: "load balancers"}

// LoadBalancer gives Services of type LoadBalancer their addresses, from the nodes or from a range; the proxies take
// traffic at them. A Service with a loadBalancerClass is left alone. It is woken by Services with ports on nodes, by
// nodes that come, go or change, and by endpoints of Services whose traffic stays on their nodes.
//
// Ingresses that nodes serve have ports there, too: a Service that is younger than the oldest Ingress does not get them.
func LoadBalancer(d Deps, pool Pool, served Ingress) (reconcile.Controller, error) {
	services := d.Informers.Core().V1().Services()
	nodes := d.Informers.Core().V1().Nodes()
	all := d.Informers.Discovery().V1().EndpointSlices()
	ingresses := d.Informers.Networking().V1().Ingresses()
	classes := d.Informers.Networking().V1().IngressClasses()
	index, err := indexByService(all.Informer())
	if err != nil {
		return reconcile.Controller{}, err
	}
	c := &balancers{
		served: served, ingresses: ingresses.Lister(), classes: classes.Lister(),
		client: d.Client, pool: pool, services: services.Lister(), nodes: nodes.Lister(), slices: index,
		events: d.Recorder("service-controller"), writes: reconcile.NewWrites(), problems: make(map[types.UID]string),
	}
	return reconcile.Controller{
		Name:    "LoadBalancer",
		Workers: 1,
		Watch: []reconcile.Source{
			reconcile.On(services.Informer(), c.serviceChanged),
			reconcile.On(nodes.Informer(), func(old, node *corev1.Node) []reconcile.Key {
				if old != nil && node != nil && balancerAddresses(old) == balancerAddresses(node) {
					return nil
				}
				return []reconcile.Key{allBalancers}
			}),
			reconcile.On(all.Informer(), c.sliceChanged),
			reconcile.On(ingresses.Informer(), func(old, ing *networkingv1.Ingress) []reconcile.Key {
				if old != nil && ing != nil && classOf(old) == classOf(ing) {
					return nil
				}
				return []reconcile.Key{allBalancers}
			}),
			reconcile.On(classes.Informer(), func(_, _ *networkingv1.IngressClass) []reconcile.Key { return []reconcile.Key{allBalancers} }),
		},
		Sync: c.sync,
	}, nil
}

type balancers struct {
	client   kubernetes.Interface
	pool     Pool
	services corelisters.ServiceLister
	nodes    corelisters.NodeLister
	slices   cache.Indexer
	events   record.EventRecorder
	writes   *reconcile.Writes

	served    Ingress
	ingresses networkinglisters.IngressLister
	classes   networkinglisters.IngressClassLister

	mu       sync.Mutex
	problems map[types.UID]string // as they were told
}

func (c *balancers) serviceChanged(old, s *corev1.Service) []reconcile.Key {
	if s == nil {
		c.mu.Lock()
		delete(c.problems, old.UID)
		c.mu.Unlock()
		c.writes.Forget(old.UID)
	}
	matters := func(s *corev1.Service) bool {
		return s != nil && (s.Spec.Type == corev1.ServiceTypeLoadBalancer || s.Spec.Type == corev1.ServiceTypeNodePort || slices.Contains(s.Finalizers, balancerFinalizer))
	}
	if matters(old) || matters(s) {
		return []reconcile.Key{allBalancers}
	}
	return nil
}

func (c *balancers) sliceChanged(old, slice *discoveryv1.EndpointSlice) []reconcile.Key {
	changed := slice
	if changed == nil {
		changed = old
	}
	s, err := c.services.Services(changed.Namespace).Get(changed.Labels[discoveryv1.LabelServiceName])
	if err != nil || !wantsAddress(s) || s.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return nil
	}
	return []reconcile.Key{allBalancers}
}

func (c *balancers) sync(ctx context.Context, _ reconcile.Key) (time.Duration, error) {
	services, err := c.services.List(labels.Everything())
	if err != nil {
		return 0, err
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return 0, err
	}
	reserved, err := c.reserved()
	if err != nil {
		return 0, err
	}
	outcomes := balancing{pool: c.pool, services: services, nodes: nodes, slices: c.slicesOf, reserved: reserved}.plan()
	var errs []error
	stale := false
	for _, s := range services {
		outcome, wanted := outcomes[reconcile.KeyOf(s)]
		switch {
		case !wanted && !c.wasOurs(s):
		case !c.writes.Seen(s):
			stale = true
		case wanted:
			errs = append(errs, c.give(ctx, s, outcome))
		default:
			errs = append(errs, c.release(ctx, s))
		}
	}
	if stale {
		return staleRetry, errors.Join(errs...)
	}
	return 0, errors.Join(errs...)
}

// Ingress are the ports at which nodes serve Ingresses of a controller.
type Ingress struct {
	Controller string
	Ports      []uint16
}

// reserved are the ports of Ingresses, since the oldest one.
func (c *balancers) reserved() (list []reservation, err error) {
	all, err := c.ingresses.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	var oldest *networkingv1.Ingress
	for _, ing := range all {
		class, err := c.classes.Get(classOf(ing))
		if err == nil && class.Spec.Controller == c.served.Controller && (oldest == nil || ing.CreationTimestamp.Before(&oldest.CreationTimestamp)) {
			oldest = ing
		}
	}
	if oldest == nil {
		return nil, nil
	}
	for _, port := range c.served.Ports {
		if port != 0 {
			list = append(list, reservation{nodePort{corev1.ProtocolTCP, int32(port)}, "the Ingresses that nodes serve", oldest.CreationTimestamp})
		}
	}
	return list, nil
}

// classOf is the class that an Ingress names.
func classOf(ing *networkingv1.Ingress) string {
	if ing.Spec.IngressClassName != nil {
		return *ing.Spec.IngressClassName
	}
	return ing.Annotations["kubernetes.io/ingress.class"]
}

func (c *balancers) slicesOf(key reconcile.Key) []*discoveryv1.EndpointSlice {
	list, err := slicesOf(c.slices, key)
	if err != nil {
		return nil // an index that is there gives no error
	}
	return list
}

// wasOurs reports whether s holds what this controller gave it, and should not.
func (c *balancers) wasOurs(s *corev1.Service) bool {
	return !wantsAddress(s) && s.Spec.LoadBalancerClass == nil && slices.Contains(s.Finalizers, balancerFinalizer) &&
		slices.ContainsFunc(s.ManagedFields, func(m metav1.ManagedFieldsEntry) bool { return m.Manager == balancerManager })
}

// give writes what a load balancer gets into its status, if that is something else.
func (c *balancers) give(ctx context.Context, s *corev1.Service, o outcome) error {
	c.tell(s, o.problem)
	updated := s.DeepCopy()
	if !slices.Contains(updated.Finalizers, balancerFinalizer) {
		updated.Finalizers = append(updated.Finalizers, balancerFinalizer)
	}
	updated.Status.LoadBalancer = balancerStatus(o.addresses)
	if equality.Semantic.DeepEqual(s.Status.LoadBalancer, updated.Status.LoadBalancer) && len(s.Finalizers) == len(updated.Finalizers) {
		return nil
	}
	first := len(s.Status.LoadBalancer.Ingress) == 0
	if first && o.problem == "" {
		c.events.Event(s, corev1.EventTypeNormal, "EnsuringLoadBalancer", "Ensuring load balancer")
	}
	if err := c.write(ctx, updated); err != nil {
		return err
	}
	switch {
	case o.problem != "":
	case first:
		c.events.Event(s, corev1.EventTypeNormal, "EnsuredLoadBalancer", "Ensured load balancer")
	default:
		c.events.Event(s, corev1.EventTypeNormal, "UpdatedLoadBalancer", "Updated load balancer with new hosts")
	}
	return nil
}

func balancerStatus(addresses []netip.Addr) (status corev1.LoadBalancerStatus) {
	for _, a := range addresses {
		status.Ingress = append(status.Ingress, corev1.LoadBalancerIngress{IP: a.String(), IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)})
	}
	return status
}

// tell says once why a Service gets no address.
func (c *balancers) tell(s *corev1.Service, problem string) {
	c.mu.Lock()
	told := c.problems[s.UID]
	c.problems[s.UID] = problem
	c.mu.Unlock()
	if problem != "" && problem != told {
		c.events.Eventf(s, corev1.EventTypeWarning, "SyncLoadBalancerFailed", "Error syncing load balancer: failed to ensure load balancer: %s", problem)
	}
}

// release takes the addresses of a Service that is no load balancer any more, or is being deleted, and lets it go.
func (c *balancers) release(ctx context.Context, s *corev1.Service) error {
	c.events.Event(s, corev1.EventTypeNormal, "DeletingLoadBalancer", "Deleting load balancer")
	updated := s.DeepCopy()
	updated.Finalizers = slices.DeleteFunc(updated.Finalizers, func(f string) bool { return f == balancerFinalizer })
	updated.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	if err := c.write(ctx, updated); err != nil {
		return err
	}
	c.events.Event(s, corev1.EventTypeNormal, "DeletedLoadBalancer", "Deleted load balancer")
	return nil
}

func (c *balancers) write(ctx context.Context, s *corev1.Service) error {
	written, err := c.client.CoreV1().Services(s.Namespace).UpdateStatus(ctx, s, metav1.UpdateOptions{FieldManager: balancerManager})
	if err != nil {
		return reconcile.IgnoreNotFound(fmt.Errorf("write the status of Service %s/%s: %w", s.Namespace, s.Name, err))
	}
	c.writes.Note(written)
	return nil
}
