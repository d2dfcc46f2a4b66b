package devices

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// manager owns the names of claims in the status of pods.
const manager = "ResourceClaimController"

// PodClaims makes the claims that pods ask for by a template, names them in the status of the pod, and makes one
// anew that went before its pod. For pods that reached a node without the scheduler it reserves claims that have
// devices. It is woken by a pod that is new, bound, or told of its claims, by a template, and by what happens to
// the claims of a pod.
func PodClaims(d Deps) (reconcile.Controller, error) {
	pods, claims, templates := d.Informers.Core().V1().Pods(), d.Informers.Resource().V1().ResourceClaims(), d.Informers.Resource().V1().ResourceClaimTemplates()
	podIndex, err := indexPods(pods.Informer())
	if err != nil {
		return reconcile.Controller{}, err
	}
	owned, err := indexClaims(claims.Informer())
	if err != nil {
		return reconcile.Controller{}, err
	}
	p := &podClaims{
		client: d.Client, pods: pods.Lister(), claims: claims.Lister(), templates: templates.Lister(), owned: owned,
		events: d.Recorder("resource_claim"), made: map[madeFor]string{},
	}
	return reconcile.Controller{
		Name:    "PodClaims",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.On(pods.Informer(), p.podChanged),
			reconcile.On(templates.Informer(), func(_, template *resourcev1.ResourceClaimTemplate) []reconcile.Key {
				if template == nil {
					return nil
				}
				return podsIn(podIndex, podsByTemplate, reconcile.KeyOf(template))
			}),
			reconcile.On(claims.Informer(), func(old, claim *resourcev1.ResourceClaim) []reconcile.Key {
				switch {
				case claim == nil:
					p.gone(old)
					return podsIn(podIndex, podsByClaim, reconcile.KeyOf(old))
				case old != nil && (old.Status.Allocation != nil) == (claim.Status.Allocation != nil):
					return nil // what has changed is no pod's business
				}
				return podsIn(podIndex, podsByClaim, reconcile.KeyOf(claim))
			}),
		},
		Sync: p.sync,
	}, nil
}

type podClaims struct {
	client    kubernetes.Interface
	pods      corelisters.PodLister
	claims    resourcelisters.ResourceClaimLister
	templates resourcelisters.ResourceClaimTemplateLister
	owned     cache.Indexer
	events    record.EventRecorder

	mu sync.Mutex
	// made are the names of claims that were made and that no pod names yet: the cache may not know them.
	made map[madeFor]string
}

type madeFor struct {
	pod   types.UID
	claim string
}

func (p *podClaims) podChanged(old, pod *corev1.Pod) []reconcile.Key {
	switch {
	case pod == nil:
		p.forget(old)
		return nil
	case len(pod.Spec.ResourceClaims) == 0:
		return nil
	case old != nil && old.Spec.NodeName == pod.Spec.NodeName && equality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses):
		return nil
	}
	return []reconcile.Key{reconcile.KeyOf(pod)}
}

func (p *podClaims) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	pod, err := p.pods.Pods(key.Namespace).Get(key.Name)
	if err != nil || pod.DeletionTimestamp != nil || done(pod) {
		return 0, reconcile.IgnoreNotFound(err)
	}
	names := make(map[string]*string)
	for _, s := range pod.Status.ResourceClaimStatuses {
		names[s.Name] = s.ResourceClaimName
	}
	changed := false
	for i := range pod.Spec.ResourceClaims {
		c := &pod.Spec.ResourceClaims[i]
		name, err := p.ensure(ctx, pod, c)
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return 0, nil
		}
		if err != nil {
			p.events.Eventf(pod, corev1.EventTypeWarning, "FailedResourceClaimCreation", "PodResourceClaim %s: %v", c.Name, err)
			return 0, fmt.Errorf("claim %s of pod: %w", c.Name, err)
		}
		if name != "" {
			names[c.Name], changed = &name, true
		}
	}
	if changed {
		return 0, p.tell(ctx, pod, names) // the pod with the names comes back here
	}
	if pod.Spec.NodeName == "" {
		return 0, nil // the scheduler reserves
	}
	return 0, p.reserve(ctx, pod)
}

// ensure sees to it that a claim of a pod exists that is to be made of a template. It returns its name if the pod
// does not know it yet.
func (p *podClaims) ensure(ctx context.Context, pod *corev1.Pod, c *corev1.PodResourceClaim) (unknown string, err error) {
	if c.ResourceClaimTemplateName == nil {
		return "", nil
	}
	if known, _, err := resourceclaim.Name(pod, c); err == nil {
		if known == nil {
			return "", nil // it was decided that none is needed
		}
		claim, err := p.claims.ResourceClaims(pod.Namespace).Get(*known)
		if err == nil && resourceclaim.IsForPod(pod, claim, false) == nil {
			return "", nil
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return "", err
		}
		if p.madeFor(pod, c) == *known {
			return "", nil // the cache lags behind
		}
	}
	if name, err := p.orphan(pod, c); err != nil || name != "" {
		return name, err
	}
	template, err := p.templates.ResourceClaimTemplates(pod.Namespace).Get(*c.ResourceClaimTemplateName)
	if err != nil {
		return "", fmt.Errorf("resource claim template %q: %w", *c.ResourceClaimTemplateName, err)
	}
	claim, err := p.client.ResourceV1().ResourceClaims(pod.Namespace).Create(ctx, claimFor(pod, c, template), metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("create ResourceClaim : %w", err) // it has no name yet, and upstream says so
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made[madeFor{pod.UID, c.Name}] = claim.Name
	return claim.Name, nil
}

// orphan is the name of a claim that was made for a pod, by this process or one before it, and is not in the pod's
// status.
func (p *podClaims) orphan(pod *corev1.Pod, c *corev1.PodResourceClaim) (string, error) {
	objects, err := p.owned.ByIndex(claimsByOwner, string(pod.UID))
	if err != nil {
		return "", err
	}
	for _, obj := range objects {
		if claim, ok := obj.(*resourcev1.ResourceClaim); ok && claim.Annotations[resourcev1.PodResourceClaimAnnotation] == c.Name && claim.DeletionTimestamp == nil {
			return claim.Name, nil
		}
	}
	named, _, err := resourceclaim.Name(pod, c)
	if made := p.madeFor(pod, c); err != nil || named == nil || made != *named {
		return made, nil
	}
	return "", nil
}

func (p *podClaims) madeFor(pod *corev1.Pod, c *corev1.PodResourceClaim) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.made[madeFor{pod.UID, c.Name}]
}

// gone drops what is remembered of a claim that the cache had.
func (p *podClaims) gone(claim *resourcev1.ResourceClaim) {
	owner := podOf(claim)
	if owner == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if key := (madeFor{owner.UID, claim.Annotations[resourcev1.PodResourceClaimAnnotation]}); p.made[key] == claim.Name {
		delete(p.made, key)
	}
}

// forget drops what is remembered of the claims of a pod that is gone.
func (p *podClaims) forget(pod *corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range pod.Spec.ResourceClaims {
		delete(p.made, madeFor{pod.UID, c.Name})
	}
}

// claimFor is the claim of a pod as its template has it.
func claimFor(pod *corev1.Pod, c *corev1.PodResourceClaim, template *resourcev1.ResourceClaimTemplate) *resourcev1.ResourceClaim {
	template = template.DeepCopy()
	claim := &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: generateName(pod.Name, c.Name), Namespace: pod.Namespace,
			Labels: template.Spec.Labels, Annotations: template.Spec.Annotations,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID, Controller: new(bool)}},
		},
		Spec: template.Spec.Spec,
	}
	*claim.OwnerReferences[0].Controller = true
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, resourcev1.PodResourceClaimAnnotation, c.Name)
	return claim
}

// generateName leaves room for what is added to it, and something of both names.
func generateName(pod, claim string) string {
	const longest = 57
	name := pod + "-" + claim + "-"
	if len(name) <= longest {
		return name
	}
	return pod[:len(pod)*longest/len(name)] + "-" + claim[:len(claim)*longest/len(name)]
}

// tell writes the names of its claims into the status of a pod.
func (p *podClaims) tell(ctx context.Context, pod *corev1.Pod, names map[string]*string) error {
	status := corev1apply.PodStatus()
	for _, name := range slices.Sorted(maps.Keys(names)) {
		s := corev1apply.PodResourceClaimStatus().WithName(name)
		s.ResourceClaimName = names[name]
		status.WithResourceClaimStatuses(s)
	}
	change := corev1apply.Pod(pod.Name, pod.Namespace).WithUID(pod.UID).WithStatus(status)
	_, err := p.client.CoreV1().Pods(pod.Namespace).ApplyStatus(ctx, change, metav1.ApplyOptions{FieldManager: manager, Force: true})
	return reconcile.IgnoreNotFound(err)
}

// reserve reserves for a pod that is on a node what it was put there without.
func (p *podClaims) reserve(ctx context.Context, pod *corev1.Pod) error {
	for i := range pod.Spec.ResourceClaims {
		name, made, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil || name == nil {
			continue
		}
		claim, err := p.claims.ResourceClaims(pod.Namespace).Get(*name)
		if apierrors.IsNotFound(err) {
			return nil // its coming is another reason to look
		}
		if err != nil {
			return err
		}
		if made {
			if err := resourceclaim.IsForPod(pod, claim, false); err != nil {
				return err
			}
		}
		if claim.Status.Allocation == nil || resourceclaim.IsReservedForPod(pod, claim, false) {
			continue
		}
		claim = claim.DeepCopy()
		claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
		if _, err := p.client.ResourceV1().ResourceClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("reserve claim %s: %w", reconcile.KeyOf(claim), err)
		}
	}
	return nil
}
