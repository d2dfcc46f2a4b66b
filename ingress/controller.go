package ingress

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/guard/clientgo"
	"github.com/skiff-k8s/skiff/ingress/route"
)

// settle is how long changes are gathered before they take effect together.
const settle = 5 * time.Millisecond

// classAnnotation named the class before spec.ingressClassName did.
const classAnnotation = "kubernetes.io/ingress.class"

// secretTypes leaves out Secrets that no Ingress names, of which there may be many large ones.
const secretTypes = "type!=helm.sh/release.v1,type!=" + string(corev1.SecretTypeServiceAccountToken)

// controller follows objects and keeps the table.
type controller struct {
	Config
	handler *handler
	status  *status
	ports   *ports
	builder *route.Builder
	// As of the last change: the Ingresses of our class, and the Services of type LoadBalancer.
	served, balancers map[route.Key]bool
	// Backends that are not there, since when, until it is told.
	missing map[route.Backend]time.Time

	factories []informers.SharedInformerFactory
	ingresses networkinglisters.IngressLister
	classes   networkinglisters.IngressClassLister
	services  corelisters.ServiceLister
	slices    cache.Indexer // EndpointSlices, by Service
	secrets   corelisters.SecretLister

	wake    chan struct{}
	mu      sync.Mutex
	pending changes
}

// changes are what happened since the table was made.
type changes struct {
	since                        time.Time
	ingresses, services, secrets map[route.Key]bool
	all                          bool // every Ingress: classes are others
}

func newChanges() changes {
	return changes{ingresses: make(map[route.Key]bool), services: make(map[route.Key]bool), secrets: make(map[route.Key]bool)}
}

func newController(c Config) (*controller, error) {
	k := &controller{
		Config: c, handler: newHandler(c), wake: make(chan struct{}, 1), pending: newChanges(), served: make(map[route.Key]bool),
		balancers: make(map[route.Key]bool), missing: make(map[route.Backend]time.Time),
	}
	all := informers.NewSharedInformerFactoryWithOptions(c.Client, 0, informers.WithTransform(trim))
	secrets := informers.NewSharedInformerFactoryWithOptions(c.Client, 0, informers.WithTransform(trim), informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = secretTypes
	}))
	k.factories = []informers.SharedInformerFactory{all, secrets}
	k.ingresses = all.Networking().V1().Ingresses().Lister()
	k.classes = all.Networking().V1().IngressClasses().Lister()
	k.services = all.Core().V1().Services().Lister()
	k.slices = all.Discovery().V1().EndpointSlices().Informer().GetIndexer()
	if err := k.slices.AddIndexers(cache.Indexers{byService: serviceOf}); err != nil {
		return nil, err
	}
	k.secrets = secrets.Core().V1().Secrets().Lister()
	k.builder = route.NewBuilder(k.secret)
	k.status = newStatus(c, k.ingresses, all.Core().V1().Nodes().Lister())
	k.ports = newPorts(c, k.handler)
	for _, w := range []struct {
		informer cache.SharedIndexInformer
		note     func(obj metav1.Object)
	}{
		{all.Networking().V1().Ingresses().Informer(), func(o metav1.Object) { k.pending.ingresses[keyOf(o)] = true }},
		{all.Networking().V1().IngressClasses().Informer(), func(metav1.Object) { k.pending.all = true }},
		{all.Core().V1().Services().Informer(), func(o metav1.Object) { k.pending.services[keyOf(o)] = true }},
		{all.Discovery().V1().EndpointSlices().Informer(), func(o metav1.Object) { k.pending.services[sliceKey(o)] = true }},
		{secrets.Core().V1().Secrets().Informer(), func(o metav1.Object) { k.pending.secrets[keyOf(o)] = true }},
		{all.Core().V1().Nodes().Informer(), nil},
	} {
		if err := k.follow(w.informer, w.note); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// byService is the index of EndpointSlices by what serviceOf says.
const byService = "service"

func serviceOf(obj any) ([]string, error) {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return nil, fmt.Errorf("%T is no EndpointSlice", obj)
	}
	return []string{sliceKey(slice).String()}, nil
}

// sliceKey is the Service whose endpoints a slice has.
func sliceKey(slice metav1.Object) route.Key {
	return route.Key{Namespace: slice.GetNamespace(), Name: slice.GetLabels()[discoveryv1.LabelServiceName]}
}

// trim drops what nobody here reads.
func trim(obj any) (any, error) {
	if o, ok := obj.(metav1.Object); ok {
		o.SetManagedFields(nil)
	}
	return obj, nil
}

func keyOf(o metav1.Object) route.Key {
	return route.Key{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// follow notes every object that an informer sees changed; without note they matter to the status alone.
func (k *controller) follow(informer cache.SharedIndexInformer, note func(metav1.Object)) error {
	changed := func(old, now any) {
		if gone, ok := now.(cache.DeletedFinalStateUnknown); ok {
			now = gone.Obj
		}
		object, ok := now.(metav1.Object)
		if !ok {
			return
		}
		if before, ok := old.(metav1.Object); ok && sameToUs(before, object) {
			if _, ok := object.(*networkingv1.Ingress); ok {
				k.status.look(keyOf(object)) // its status may be another
			}
			return
		}
		if note == nil {
			k.status.nodeChanged(object.GetName())
			return
		}
		k.mu.Lock()
		if k.pending.since.IsZero() {
			k.pending.since = time.Now()
		}
		note(object)
		k.mu.Unlock()
		k.stir()
	}
	_, err := informer.AddEventHandler(clientgo.Handler("ingress' events", cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { changed(nil, obj) },
		UpdateFunc: changed,
		DeleteFunc: func(obj any) { changed(nil, obj) },
	}))
	return err
}

// sameToUs reports whether a change is none that matters here: heartbeats of nodes, the status of Ingresses.
func sameToUs(old, now metav1.Object) bool {
	switch now := now.(type) {
	case *corev1.Node:
		return sameNode(old.(*corev1.Node), now)
	case *networkingv1.Ingress:
		before := old.(*networkingv1.Ingress)
		return before.UID == now.UID && before.Generation == now.Generation && sameAnnotations(before.Annotations, now.Annotations)
	}
	return old.GetResourceVersion() == now.GetResourceVersion()
}

func (k *controller) stir() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *controller) run(ctx context.Context) error {
	defer k.ports.close()
	var running guard.Group
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, f := range k.factories {
		f.Start(ctx.Done())
		defer f.Shutdown()
	}
	for _, f := range k.factories {
		for kind, ok := range f.WaitForCacheSync(ctx.Done()) {
			if !ok { // ctx ended first
				k.Log.Debug("the ingress ends before it has read", "kind", fmt.Sprint(kind))
				return nil
			}
		}
	}
	stopEvents := k.status.record()
	defer stopEvents()
	running.Go("ingress status", func() { k.status.run(ctx) })
	k.ports.changed = k.stir
	ticker := time.NewTicker(portRetry)
	defer ticker.Stop()
	for made := false; ; {
		if !made {
			made = k.makeClass(ctx)
		}
		k.apply()
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C: // a port may have become free
			k.tellMissing()
		case <-k.wake:
			time.Sleep(settle)
		}
	}
}

// makeClass is tried again later if it does not succeed.
func (k *controller) makeClass(ctx context.Context) bool {
	err := EnsureClass(ctx, k.Client)
	if err != nil && ctx.Err() == nil {
		k.Log.Error("the ingress has no class", "error", err)
	}
	return err == nil
}

// apply makes all changes since the last call take effect.
func (k *controller) apply() {
	k.mu.Lock()
	todo := k.pending
	k.pending = newChanges()
	k.mu.Unlock()
	k.follows(&todo)
	touched := k.build(&todo)
	if !todo.since.IsZero() {
		k.handler.journal.changes.Observe(time.Since(todo.since).Seconds())
	}
	problems := k.ports.keep(len(k.served) > 0, k.balancerHere)
	k.status.set(k.ports.listening(), problems)
	for key := range touched {
		k.status.tell(key, k.served[key], k.builder.Problems(key))
	}
}

// follows adds the Ingresses that other changes are about.
func (k *controller) follows(todo *changes) {
	for secret := range todo.secrets {
		for _, key := range k.builder.ReadersOf(secret) {
			todo.ingresses[key] = true
		}
	}
	if !todo.all {
		return
	}
	list, err := k.ingresses.List(labels.Everything())
	if err != nil {
		return // a cache gives no error
	}
	for _, ing := range list {
		todo.ingresses[keyOf(ing)] = true
	}
}

// build makes the table anew and returns the Ingresses of which there may be something else to tell.
func (k *controller) build(todo *changes) map[route.Key]bool {
	for key := range todo.ingresses {
		ing, err := k.ingresses.Ingresses(key.Namespace).Get(key.Name)
		if err != nil || !k.ours(ing) {
			if err != nil {
				k.handler.journal.forget(key)
			}
			delete(k.served, key)
			k.builder.Delete(key)
			continue
		}
		k.served[key] = true
		k.builder.Set(ing)
		for _, service := range k.builder.Services(key) {
			todo.services[service] = true
		}
	}
	for service := range todo.services {
		k.noteBalancer(service)
		k.resolve(service)
	}
	if len(todo.ingresses) == 0 {
		return nil
	}
	table, touched := k.builder.Table()
	k.handler.table.Store(table)
	for key := range todo.ingresses {
		touched[key] = true
	}
	return touched
}

// resolve gives the pools of a Service its endpoints.
func (k *controller) resolve(key route.Key) {
	pools := k.builder.PoolsOf(key)
	if len(pools) == 0 {
		return
	}
	service, err := k.services.Services(key.Namespace).Get(key.Name)
	if err != nil {
		service = nil
	}
	found, err := k.slices.ByIndex(byService, key.String())
	if err != nil {
		found = nil // the index is there
	}
	slices := make([]*discoveryv1.EndpointSlice, 0, len(found))
	for _, obj := range found {
		slices = append(slices, obj.(*discoveryv1.EndpointSlice))
	}
	for _, p := range pools {
		p.Set(route.Endpoints(p.Backend, service, slices))
		if route.Missing(p.Backend, service) == "" {
			delete(k.missing, p.Backend)
		} else if k.missing[p.Backend].IsZero() {
			k.missing[p.Backend] = time.Now()
		}
	}
}

// tellMissing says of Ingresses which of their backends have not been there for a while: what is made together does not
// come in order.
func (k *controller) tellMissing() {
	for backend, since := range k.missing {
		if time.Since(since) < portRetry/2 {
			continue
		}
		delete(k.missing, backend)
		service, err := k.services.Services(backend.Service.Namespace).Get(backend.Service.Name)
		if err != nil {
			service = nil
		}
		if problem := route.Missing(backend, service); problem != "" {
			for _, key := range k.builder.UsersOf(backend) {
				k.status.event(key, []string{problem + "; its paths are answered with 503"})
			}
		}
	}
}

func (k *controller) secret(key route.Key) *corev1.Secret {
	s, err := k.secrets.Secrets(key.Namespace).Get(key.Name)
	if err != nil {
		return nil
	}
	return s
}

// ours reports whether an Ingress is of a class of this controller. One that names none is, unless another class is the
// default.
func (k *controller) ours(ing *networkingv1.Ingress) bool {
	if ing.DeletionTimestamp != nil {
		return false
	}
	name := ing.Annotations[classAnnotation]
	if ing.Spec.IngressClassName != nil {
		name = *ing.Spec.IngressClassName
	}
	if name != "" {
		class, err := k.classes.Get(name)
		return err == nil && class.Spec.Controller == ControllerName
	}
	classes, err := k.classes.List(labels.Everything())
	if err != nil {
		return false
	}
	for _, class := range classes {
		if class.Spec.Controller != ControllerName && class.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
			return false
		}
	}
	return true
}

func (k *controller) noteBalancer(key route.Key) {
	s, err := k.services.Services(key.Namespace).Get(key.Name)
	if err != nil || s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		delete(k.balancers, key)
		return
	}
	k.balancers[key] = true
}

// balancerHere is a Service of type LoadBalancer that has a port of this node, which packets then never reach a program
// at; empty if there is none.
func (k *controller) balancerHere(port uint16) string {
	for key := range k.balancers {
		s, err := k.services.Services(key.Namespace).Get(key.Name)
		if err != nil || !holdsPort(s, port) {
			continue
		}
		for _, i := range s.Status.LoadBalancer.Ingress {
			if slices.ContainsFunc(k.addresses(), func(a netip.Addr) bool { return i.IP == a.String() }) {
				return key.String()
			}
		}
	}
	return ""
}

func holdsPort(s *corev1.Service, port uint16) bool {
	for _, p := range s.Spec.Ports {
		if p.Protocol == corev1.ProtocolTCP && uint16(p.Port) == port {
			return true
		}
	}
	return false
}
