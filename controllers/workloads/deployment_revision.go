package workloads

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Annotations by which kubectl rollout finds its way: the number of the template, on the deployment and on each
// set, and the numbers a set had before it was rolled back to.
const (
	revision        = "deployment.kubernetes.io/revision"
	revisionHistory = "deployment.kubernetes.io/revision-history"
	// revisionHistoryLength bounds the latter annotation in characters.
	revisionHistoryLength = 2000
)

// notCopied are the annotations of a deployment that say nothing about its sets.
var notCopied = map[string]bool{
	corev1.LastAppliedConfigAnnotation: true,
	revision:                           true,
	revisionHistory:                    true,
	desiredReplicas:                    true,
	maxReplicas:                        true,
	appsv1.DeprecatedRollbackTo:        true,
}

// sameTemplate compares pod templates but for the hash label, which only sets carry.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	return equality.Semantic.DeepEqual(withoutHash(a), withoutHash(b))
}

func withoutHash(template *corev1.PodTemplateSpec) *corev1.PodTemplateSpec {
	if _, ok := template.Labels[appsv1.DefaultDeploymentUniqueLabelKey]; !ok {
		return template
	}
	copied := *template
	copied.Labels = maps.Clone(template.Labels)
	delete(copied.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return &copied
}

// templateHash names a template. The count makes it another name after a collision.
func templateHash(template *corev1.PodTemplateSpec, collisions *int32) string {
	hash := fnv.New32a()
	data, err := json.Marshal(template)
	if err != nil {
		panic(err) // an API type always encodes
	}
	hash.Write(data)
	if collisions != nil {
		hash.Write(binary.LittleEndian.AppendUint32(nil, uint32(*collisions)))
	}
	return rand.SafeEncodeString(fmt.Sprint(hash.Sum32()))
}

// revisionOf returns the revision noted on a set, 0 if there is none that can be read.
func revisionOf(set *appsv1.ReplicaSet) int64 {
	n, err := strconv.ParseInt(set.Annotations[revision], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// nextRevision is one more than any old set has.
func (r *rollout) nextRevision() int64 {
	highest := int64(0)
	for _, set := range r.old {
		highest = max(highest, revisionOf(set))
	}
	return highest + 1
}

// annotate copies the deployment's annotations to its current set and raises the set's revision to at least
// number, keeping the one it had as history. It tells whether anything changed.
func annotate(set *appsv1.ReplicaSet, d *appsv1.Deployment, number int64) bool {
	changed := false
	if set.Annotations == nil {
		set.Annotations = map[string]string{}
	}
	for key, value := range d.Annotations {
		if has, ok := set.Annotations[key]; !notCopied[key] && (!ok || has != value) {
			set.Annotations[key] = value
			changed = true
		}
	}
	before, numbered := set.Annotations[revision]
	if _, err := strconv.ParseInt(before, 10, 64); before != "" && err != nil {
		return changed // not ours; leave it
	}
	if revisionOf(set) >= number {
		return changed
	}
	set.Annotations[revision] = strconv.FormatInt(number, 10)
	if numbered && before != "" {
		if history, ok := appendHistory(set.Annotations[revisionHistory], before); ok {
			set.Annotations[revisionHistory] = history
		}
	}
	return true
}

// appendHistory adds a number to a comma-separated list and drops the oldest ones that make it too long.
func appendHistory(history, number string) (string, bool) {
	if history != "" {
		number = history + "," + number
	}
	for len(number) > revisionHistoryLength {
		_, rest, more := strings.Cut(number, ",")
		if !more {
			return "", false
		}
		number = rest
	}
	return number, true
}

// syncRevision brings annotations and minReadySeconds of the current set up to date, and the deployment's
// revision to the set's.
func (c *deploymentLoop) syncRevision(ctx context.Context, r *rollout) error {
	if r.current == nil {
		return nil
	}
	d := r.deployment
	set := r.current.DeepCopy()
	changed := annotate(set, d, r.nextRevision())
	if changed || set.Spec.MinReadySeconds != d.Spec.MinReadySeconds {
		set.Spec.MinReadySeconds = d.Spec.MinReadySeconds
		updated, err := c.client.AppsV1().ReplicaSets(set.Namespace).Update(ctx, set, metav1.UpdateOptions{})
		if err != nil {
			return fmt.Errorf("update replica set %s: %w", set.Name, err)
		}
		r.current = updated
	}
	r.setRevision()
	if hasDeadline(d) && deploymentCondition(d, appsv1.DeploymentProgressing) == nil {
		setCondition(&d.Status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "FoundNewReplicaSet",
			fmt.Sprintf("Found new replica set %q", set.Name), time.Now()))
	}
	return nil
}

func (r *rollout) setRevision() {
	if r.deployment.Annotations == nil {
		r.deployment.Annotations = map[string]string{}
	}
	r.deployment.Annotations[revision] = r.current.Annotations[revision]
}

// ensureNewSet creates the set of the current template if there is none.
func (c *deploymentLoop) ensureNewSet(ctx context.Context, r *rollout) error {
	if r.current != nil {
		return nil
	}
	d := r.deployment
	set := r.newSet()
	created, err := c.client.AppsV1().ReplicaSets(d.Namespace).Create(ctx, set, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		return c.useExisting(ctx, r, set, err)
	case namespaceGoing(err):
		return nil
	case err != nil:
		message := fmt.Sprintf("Failed to create new replica set %q: %v", set.Name, err)
		if hasDeadline(d) {
			setCondition(&d.Status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, "ReplicaSetCreateError", message, time.Now()))
		}
		c.events.Event(d, corev1.EventTypeWarning, "ReplicaSetCreateError", message)
		return fmt.Errorf("create replica set %s: %w", set.Name, err)
	}
	r.current = created
	r.setRevision()
	if n := *created.Spec.Replicas; n > 0 {
		c.events.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", created.Name, n)
	}
	if hasDeadline(d) {
		setCondition(&d.Status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetCreated",
			fmt.Sprintf("Created new replica set %q", created.Name), time.Now()))
	}
	return nil
}

// useExisting takes a set that has the name of the wanted one. Either the cache did not know yet that it is the
// one, or two templates have the same hash, and the next try gets another name.
func (c *deploymentLoop) useExisting(ctx context.Context, r *rollout, wanted *appsv1.ReplicaSet, taken error) error {
	d := r.deployment
	found, err := c.client.AppsV1().ReplicaSets(d.Namespace).Get(ctx, wanted.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read replica set %s: %w", wanted.Name, err)
	}
	if metav1.IsControlledBy(found, d) && sameTemplate(&found.Spec.Template, &d.Spec.Template) {
		r.current = found
		r.setRevision()
		return nil
	}
	collisions := int32(1)
	if d.Status.CollisionCount != nil {
		collisions = *d.Status.CollisionCount + 1
	}
	d.Status.CollisionCount = &collisions
	return taken
}

// newSet makes the set of the current template, as large as it may be now.
func (r *rollout) newSet() *appsv1.ReplicaSet {
	d := r.deployment
	hash := templateHash(&d.Spec.Template, d.Status.CollisionCount)
	template := *d.Spec.Template.DeepCopy()
	template.Labels = withLabel(template.Labels, appsv1.DefaultDeploymentUniqueLabelKey, hash)
	selector := d.Spec.Selector.DeepCopy()
	selector.MatchLabels = withLabel(selector.MatchLabels, appsv1.DefaultDeploymentUniqueLabelKey, hash)
	size := r.currentSize()
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name:            setName(d.Name, hash),
			Namespace:       d.Namespace,
			Labels:          maps.Clone(template.Labels),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, deploymentKind)},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas:        &size,
			MinReadySeconds: d.Spec.MinReadySeconds,
			Selector:        selector,
			Template:        template,
		},
	}
	annotate(set, d, r.nextRevision())
	noteSize(set, d)
	return set
}

// setName joins a deployment's name and a hash, cutting the name where the whole would be too long.
func setName(deployment, hash string) string {
	if room := validation.DNS1123SubdomainMaxLength - len(hash) - 1; len(deployment) > room {
		deployment = deployment[:room]
	}
	return deployment + "-" + hash
}

func withLabel(labels map[string]string, key, value string) map[string]string {
	labels = maps.Clone(labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[key] = value
	return labels
}
