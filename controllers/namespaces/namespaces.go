// Package namespaces holds the controllers that give each namespace what every one has, and that empty a
// namespace which is being deleted.
package namespaces

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Deps is what the controllers of this package are made of.
type Deps struct {
	Client    kubernetes.Interface
	Metadata  metadata.Interface
	Informers informers.SharedInformerFactory
	Workers   int
}

// finalizerWait is how long a namespace whose content waits for finalizers is left alone.
const finalizerWait = 15 * time.Second

var podsResource = corev1.SchemeGroupVersion.WithResource("pods")

// Namespace deletes everything in a namespace that is being deleted, pods first, and lets it go when nothing is
// left; until then its conditions say what is. It is woken by the namespace and by each pod that goes.
func Namespace(d Deps) reconcile.Controller {
	all := d.Informers.Core().V1().Namespaces()
	n := &emptier{client: d.Client, metadata: d.Metadata, namespaces: all.Lister()}
	return reconcile.Controller{
		Name:    "Namespace",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.Self(all.Informer()),
			reconcile.On(d.Informers.Core().V1().Pods().Informer(), n.podGone),
		},
		Sync: n.sync,
	}
}

type emptier struct {
	client     kubernetes.Interface
	metadata   metadata.Interface
	namespaces corelisters.NamespaceLister
}

func (n *emptier) podGone(old, pod *corev1.Pod) []reconcile.Key {
	if pod != nil {
		return nil
	}
	namespace, err := n.namespaces.Get(old.Namespace)
	if err != nil || namespace.DeletionTimestamp == nil {
		return nil
	}
	return []reconcile.Key{{Name: old.Namespace}}
}

func (n *emptier) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	cached, err := n.namespaces.Get(key.Name)
	if err != nil || cached.DeletionTimestamp == nil {
		return 0, nil
	}
	namespace, err := n.client.CoreV1().Namespaces().Get(ctx, key.Name, metav1.GetOptions{})
	if err != nil {
		return 0, reconcile.IgnoreNotFound(err)
	}
	if namespace.DeletionTimestamp == nil || len(namespace.Spec.Finalizers) == 0 {
		return 0, nil
	}

	content := n.empty(ctx, namespace)
	if err := n.report(ctx, namespace, content); err != nil {
		return 0, err
	}
	switch err := content.err(); {
	case err != nil:
		return 0, err
	case len(content.remaining) > 0:
		return content.wait, nil
	case content.deleted:
		return time.Millisecond, nil // look again: only a pass that finds nothing proves that nothing is left
	}
	return 0, n.release(ctx, namespace)
}

// content is what a pass over a namespace found and could not do.
type content struct {
	discovery  error
	failures   []error
	deleted    bool                                // something was there
	remaining  map[schema.GroupVersionResource]int // and still is
	finalizers map[string]int                      // how many of it wait for each finalizer
	wait       time.Duration                       // when to look again
}

func (c *content) err() error {
	return errors.Join(append(slices.Clone(c.failures), c.discovery)...)
}

// empty deletes all it can. What does not exist any more, or cannot be listed, counts as deleted. Pods go first,
// because what else is there may be what they need to end well (KEP-5080).
func (n *emptier) empty(ctx context.Context, namespace *corev1.Namespace) *content {
	c := &content{remaining: map[schema.GroupVersionResource]int{}, finalizers: map[string]int{}}
	resources, err := n.discover()
	c.discovery = err
	if slices.ContainsFunc(resources, func(r resource) bool { return r.gvr == podsResource }) {
		n.emptyOf(ctx, resource{gvr: podsResource, collection: true}, namespace, c)
		if c.remaining[podsResource] > 0 {
			return c
		}
	}
	for _, r := range resources {
		if r.gvr != podsResource {
			n.emptyOf(ctx, r, namespace, c)
		}
	}
	return c
}

// resource is a kind of content that can be listed and deleted.
type resource struct {
	gvr        schema.GroupVersionResource
	collection bool // all at once
}

// discover lists what a namespace can hold. With an error it lists what could be found out.
func (n *emptier) discover() ([]resource, error) {
	lists, err := n.client.Discovery().ServerPreferredNamespacedResources()
	var resources []resource
	for _, list := range lists {
		gv, parseErr := schema.ParseGroupVersion(list.GroupVersion)
		if parseErr != nil {
			err = errors.Join(err, parseErr)
			continue
		}
		for _, r := range list.APIResources {
			if slices.Contains(r.Verbs, "delete") && slices.Contains(r.Verbs, "list") {
				resources = append(resources, resource{gv.WithResource(r.Name), slices.Contains(r.Verbs, "deletecollection")})
			}
		}
	}
	return resources, err
}

func (n *emptier) emptyOf(ctx context.Context, r resource, namespace *corev1.Namespace, c *content) {
	found, err := n.list(ctx, r, namespace.Name)
	if err == nil && len(found) > 0 {
		c.deleted = true
		if err = n.deleteAll(ctx, r, namespace.Name, found); err == nil {
			found, err = n.list(ctx, r, namespace.Name)
		}
	}
	if err != nil {
		c.failures = append(c.failures, fmt.Errorf("empty namespace %s of %s: %w", namespace.Name, r.gvr.GroupResource(), err))
	}
	if len(found) == 0 {
		return
	}
	c.remaining[r.gvr] = len(found)
	for _, obj := range found {
		for _, finalizer := range obj.Finalizers {
			c.finalizers[finalizer]++
		}
	}
	c.wait = max(c.wait, waitFor(r.gvr, found, time.Now()))
}

// waitFor is when to look again after what is left: pods end with their grace period and wake the loop
// themselves; finalizers take the time they take; anything else was just slow.
func waitFor(gvr schema.GroupVersionResource, left []metav1.PartialObjectMetadata, now time.Time) time.Duration {
	wait := time.Second
	for _, obj := range left {
		if len(obj.Finalizers) > 0 {
			wait = max(wait, finalizerWait/2)
		}
		if gvr == podsResource && obj.DeletionTimestamp != nil {
			wait = max(wait, obj.DeletionTimestamp.Sub(now)+time.Second)
		}
	}
	return wait
}

func (n *emptier) list(ctx context.Context, r resource, namespace string) ([]metav1.PartialObjectMetadata, error) {
	list, err := n.metadata.Resource(r.gvr).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

func (n *emptier) deleteAll(ctx context.Context, r resource, namespace string, found []metav1.PartialObjectMetadata) error {
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{PropagationPolicy: &background}
	client := n.metadata.Resource(r.gvr).Namespace(namespace)
	if r.collection {
		return client.DeleteCollection(ctx, options, metav1.ListOptions{})
	}
	for _, obj := range found {
		if err := client.Delete(ctx, obj.Name, options); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// report writes the conditions if they changed. A namespace that is empty is about to go: nobody will read them.
func (n *emptier) report(ctx context.Context, namespace *corev1.Namespace, c *content) error {
	if c.err() == nil && len(c.remaining) == 0 && len(namespace.Status.Conditions) == 0 {
		return nil
	}
	updated := namespace.DeepCopy()
	updated.Status.Phase = corev1.NamespaceTerminating
	updated.Status.Conditions = mergeConditions(namespace.Status.Conditions, c.conditions(), time.Now())
	if equality.Semantic.DeepEqual(namespace.Status, updated.Status) {
		return nil
	}
	written, err := n.client.CoreV1().Namespaces().UpdateStatus(ctx, updated, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("report on namespace %s: %w", namespace.Name, err)
	}
	*namespace = *written
	return nil
}

// release takes the finalizer off, upon which the server removes the namespace.
func (n *emptier) release(ctx context.Context, namespace *corev1.Namespace) error {
	namespace = namespace.DeepCopy()
	namespace.Spec.Finalizers = slices.DeleteFunc(namespace.Spec.Finalizers, func(f corev1.FinalizerName) bool {
		return f == corev1.FinalizerKubernetes
	})
	_, err := n.client.CoreV1().Namespaces().Finalize(ctx, namespace, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("finalize namespace %s: %w", namespace.Name, err)
	}
	return nil
}

// discoveryMessage words a failed discovery.
func discoveryMessage(err error) string {
	var partial *discovery.ErrGroupDiscoveryFailed
	if errors.As(err, &partial) {
		return fmt.Sprintf("Discovery failed for some groups, %d failing: %v", len(partial.Groups), err)
	}
	return err.Error()
}
