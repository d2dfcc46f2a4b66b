package workloads

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// revisions returns the one revision of the set's template, made if there is none, and all others.
func (c *daemonSets) revisions(ctx context.Context, set *appsv1.DaemonSet, selector labels.Selector) (current *appsv1.ControllerRevision, old []*appsv1.ControllerRevision, err error) {
	all, err := c.history.of(ctx, set, selector, c.live(set))
	if err != nil {
		return nil, nil, err
	}
	var same []*appsv1.ControllerRevision
	for _, r := range all {
		if r, err = c.labelled(ctx, r); err != nil {
			return nil, nil, err
		}
		if sameData(r, &set.Spec.Template) {
			same = append(same, r)
		} else {
			old = append(old, r)
		}
	}
	next := highestRevision(old) + 1
	if len(same) == 0 {
		current, err = c.snapshot(ctx, set, next)
		return current, old, err
	}
	current, err = c.keepOne(ctx, set, same)
	if err == nil && current.Revision < next {
		current, err = c.history.renumber(ctx, current, next)
	}
	return current, old, err
}

// labelled gives a revision that lacks the hash label, as one made by hand does, its name as the hash.
func (c *daemonSets) labelled(ctx context.Context, r *appsv1.ControllerRevision) (*appsv1.ControllerRevision, error) {
	if _, ok := r.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]; ok {
		return r, nil
	}
	r = r.DeepCopy()
	r.Labels = withLabel(r.Labels, appsv1.DefaultDaemonSetUniqueLabelKey, r.Name)
	return c.client.AppsV1().ControllerRevisions(r.Namespace).Update(ctx, r, metav1.UpdateOptions{})
}

// keepOne keeps the newest of several revisions with the same data, moves the pods to it and deletes the others.
func (c *daemonSets) keepOne(ctx context.Context, set *appsv1.DaemonSet, same []*appsv1.ControllerRevision) (*appsv1.ControllerRevision, error) {
	if len(same) == 1 {
		return same[0], nil
	}
	kept := slices.MaxFunc(same, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.Name, b.Name))
	})
	hash := kept.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]
	dropped := map[string]bool{}
	for _, r := range same {
		dropped[r.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]] = r != kept
	}
	pods, err := controlled[*corev1.Pod](c.podIndex, set.UID)
	if err != nil {
		return nil, err
	}
	for _, pod := range pods {
		if has := pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]; has == hash || !dropped[has] {
			continue
		}
		patch := patchOf(map[string]any{"labels": map[string]string{appsv1.DefaultDaemonSetUniqueLabelKey: hash}})
		if _, err := c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("move pod %s to revision %s: %w", pod.Name, kept.Name, err)
		}
	}
	for _, r := range same {
		if r == kept {
			continue
		}
		if err := c.history.remove(ctx, r); err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
	}
	return kept, nil
}

// snapshot creates the revision of the set's template. If its name is taken by other data, the collision count
// goes up, and the next sync tries another name.
func (c *daemonSets) snapshot(ctx context.Context, set *appsv1.DaemonSet, number int64) (*appsv1.ControllerRevision, error) {
	hash := templateHash(&set.Spec.Template, set.Status.CollisionCount)
	wanted := c.history.newRevision(set, &set.Spec.Template, number, set.Name+"-"+hash, appsv1.DefaultDaemonSetUniqueLabelKey, hash)
	created, err := c.client.AppsV1().ControllerRevisions(set.Namespace).Create(ctx, wanted, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return created, err
	}
	found, getErr := c.client.AppsV1().ControllerRevisions(set.Namespace).Get(ctx, wanted.Name, metav1.GetOptions{})
	if getErr != nil {
		return nil, getErr
	}
	if sameData(found, &set.Spec.Template) {
		return found, nil
	}
	updated := set.DeepCopy()
	collisions := int32(1)
	if set.Status.CollisionCount != nil {
		collisions = *set.Status.CollisionCount + 1
	}
	updated.Status.CollisionCount = &collisions
	if _, err := c.client.AppsV1().DaemonSets(set.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{}); err != nil {
		return nil, fmt.Errorf("count hash collision: %w", err)
	}
	return nil, fmt.Errorf("create revision %s: %w", wanted.Name, err)
}

// prune deletes the oldest revisions beyond the history limit that no pod runs.
func (c *daemonSets) prune(ctx context.Context, s *spread, old []*appsv1.ControllerRevision) error {
	surplus := excess(len(old), s.set.Spec.RevisionHistoryLimit)
	if surplus == 0 {
		return nil
	}
	inUse := map[string]bool{}
	for _, pods := range s.pods {
		for _, pod := range pods {
			inUse[pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]] = true
		}
	}
	old = slices.Clone(old)
	slices.SortFunc(old, func(a, b *appsv1.ControllerRevision) int { return cmp.Compare(a.Revision, b.Revision) })
	for _, r := range old {
		if surplus == 0 {
			return nil
		}
		if inUse[r.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]] {
			continue
		}
		if err := c.history.remove(ctx, r); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		surplus--
	}
	return nil
}
