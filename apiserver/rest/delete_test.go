package rest

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func TestPlanDelete(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(seconds int) *metav1.Time {
		return &metav1.Time{Time: now.Add(time.Duration(seconds) * time.Second)}
	}
	n := func(v int64) *int64 { return &v }
	yes := true
	foreground, orphan, background := metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan, metav1.DeletePropagationBackground

	plain := resource.Define[corev1.PodList](resource.Definition[corev1.Pod]{})
	graceful := resource.Define[corev1.PodList](resource.Definition[corev1.Pod]{
		Grace: func(_ *corev1.Pod, o *metav1.DeleteOptions) int64 {
			if o.GracePeriodSeconds != nil {
				return *o.GracePeriodSeconds
			}
			return 30
		},
	})
	orphaning := resource.Define[corev1.PodList](resource.Definition[corev1.Pod]{OrphanByDefault: true})
	held := resource.Define[corev1.PodList](resource.Definition[corev1.Pod]{Held: func(*corev1.Pod) bool { return true }})

	type object = metav1.ObjectMeta
	for _, c := range []struct {
		name       string
		resource   *resource.Resource
		old        object
		options    metav1.DeleteOptions
		step       deleteStep
		finalizers []string
		deletion   *metav1.Time
		grace      *int64
		generation int64
	}{
		{name: "nothing holds it", resource: plain, step: deleteNow},
		{name: "a finalizer holds it", resource: plain, old: object{Finalizers: []string{"a/b"}, Generation: 4}, step: beginDelete,
			finalizers: []string{"a/b"}, deletion: at(0), grace: n(0), generation: 5},
		{name: "deleted again while a finalizer holds it", resource: plain, old: object{Finalizers: []string{"a/b"}, Generation: 5, DeletionTimestamp: at(-10), DeletionGracePeriodSeconds: n(0)},
			step: beginDelete, finalizers: []string{"a/b"}, deletion: at(-10), grace: n(0), generation: 5},
		{name: "dependents first", resource: plain, options: metav1.DeleteOptions{PropagationPolicy: &foreground}, step: beginDelete,
			finalizers: []string{metav1.FinalizerDeleteDependents}, deletion: at(0), grace: n(0)},
		{name: "dependents orphaned", resource: plain, options: metav1.DeleteOptions{PropagationPolicy: &orphan}, step: beginDelete,
			finalizers: []string{metav1.FinalizerOrphanDependents}, deletion: at(0), grace: n(0)},
		{name: "dependents orphaned, the old way", resource: plain, options: metav1.DeleteOptions{OrphanDependents: &yes}, step: beginDelete,
			finalizers: []string{metav1.FinalizerOrphanDependents}, deletion: at(0), grace: n(0)},
		{name: "a policy replaces that of the object", resource: plain, old: object{Finalizers: []string{metav1.FinalizerOrphanDependents}},
			options: metav1.DeleteOptions{PropagationPolicy: &background}, step: deleteNow},
		{name: "the policy of the object", resource: plain, old: object{Finalizers: []string{metav1.FinalizerOrphanDependents}}, step: beginDelete,
			finalizers: []string{metav1.FinalizerOrphanDependents}, deletion: at(0), grace: n(0)},
		{name: "the policy of the kind", resource: orphaning, step: beginDelete,
			finalizers: []string{metav1.FinalizerOrphanDependents}, deletion: at(0), grace: n(0)},
		{name: "held by the kind, without a period", resource: held, step: beginDelete, deletion: at(0)},
		{name: "a grace period", resource: graceful, old: object{Generation: 1}, step: beginDelete, deletion: at(30), grace: n(30), generation: 2},
		{name: "a chosen grace period", resource: graceful, options: metav1.DeleteOptions{GracePeriodSeconds: n(5)}, step: beginDelete, deletion: at(5), grace: n(5)},
		{name: "a negative grace period is a second", resource: graceful, options: metav1.DeleteOptions{GracePeriodSeconds: n(-1)}, step: beginDelete, deletion: at(1), grace: n(1)},
		{name: "no grace period", resource: graceful, options: metav1.DeleteOptions{GracePeriodSeconds: n(0)}, step: markAndDelete, deletion: at(0), grace: n(0)},
		{name: "no grace period, and told so before", resource: graceful, old: object{DeletionTimestamp: at(-5), DeletionGracePeriodSeconds: n(0)}, step: deleteNow},
		{name: "its time runs", resource: graceful, old: object{DeletionTimestamp: at(20), DeletionGracePeriodSeconds: n(30)}, step: alreadyDeleting},
		{name: "its time is not made longer", resource: graceful, old: object{DeletionTimestamp: at(20), DeletionGracePeriodSeconds: n(30)},
			options: metav1.DeleteOptions{GracePeriodSeconds: n(60)}, step: alreadyDeleting},
		{name: "its time is made shorter, from when it began", resource: graceful, old: object{Generation: 2, DeletionTimestamp: at(20), DeletionGracePeriodSeconds: n(30)},
			options: metav1.DeleteOptions{GracePeriodSeconds: n(15)}, step: beginDelete, deletion: at(5), grace: n(15), generation: 2},
		{name: "a shorter time that is over leaves a second", resource: graceful, old: object{DeletionTimestamp: at(20), DeletionGracePeriodSeconds: n(30)},
			options: metav1.DeleteOptions{GracePeriodSeconds: n(5)}, step: beginDelete, deletion: at(0), grace: n(1)},
		{name: "the last step", resource: graceful, old: object{DeletionTimestamp: at(20), DeletionGracePeriodSeconds: n(30)},
			options: metav1.DeleteOptions{GracePeriodSeconds: n(0)}, step: markAndDelete, deletion: at(0), grace: n(0)},
		{name: "the last step, but a finalizer holds it", resource: graceful, old: object{Finalizers: []string{"a/b"}, DeletionTimestamp: at(20), DeletionGracePeriodSeconds: n(30)},
			options: metav1.DeleteOptions{GracePeriodSeconds: n(0)}, step: beginDelete, finalizers: []string{"a/b"}, deletion: at(0), grace: n(0)},
	} {
		t.Run(c.name, func(t *testing.T) {
			next, step := planDelete(c.resource, &corev1.Pod{ObjectMeta: c.old}, &c.options, now)
			if step != c.step {
				t.Fatalf("step = %v, want %v", step, c.step)
			}
			if step == deleteNow || step == alreadyDeleting {
				return
			}
			if !slices.Equal(next.GetFinalizers(), c.finalizers) {
				t.Errorf("finalizers = %v, want %v", next.GetFinalizers(), c.finalizers)
			}
			if !next.GetDeletionTimestamp().Equal(c.deletion) {
				t.Errorf("deletionTimestamp = %v, want %v", next.GetDeletionTimestamp(), c.deletion)
			}
			if got := next.GetDeletionGracePeriodSeconds(); (got == nil) != (c.grace == nil) || got != nil && *got != *c.grace {
				t.Errorf("deletionGracePeriodSeconds = %v, want %v", got, c.grace)
			}
			if next.GetGeneration() != c.generation {
				t.Errorf("generation = %d, want %d", next.GetGeneration(), c.generation)
			}
		})
	}
}
