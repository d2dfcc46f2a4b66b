package skifftest

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// await watches until so many objects are as they should be.
func (c *Cluster) await(ctx context.Context, begin func(context.Context, metav1.ListOptions) (watch.Interface, error), count int, good func(runtime.Object) bool) error {
	if count == 0 {
		return nil
	}
	events, err := begin(ctx, metav1.ListOptions{}) // without a revision: objects that are there come first
	if err != nil {
		return err
	}
	defer events.Stop()
	found := make(map[string]bool)
	for event := range events.ResultChan() {
		object, err := meta.Accessor(event.Object)
		if err != nil {
			return fmt.Errorf("watch: %v", event.Object)
		}
		found[object.GetName()] = event.Type != watch.Deleted && good(event.Object)
		if all(found) >= count {
			return nil
		}
	}
	return errors.Join(errors.New("the watch has ended"), ctx.Err())
}

func all(found map[string]bool) (count int) {
	for _, good := range found {
		if good {
			count++
		}
	}
	return count
}

func isDefault(obj runtime.Object) bool {
	account, ok := obj.(*corev1.ServiceAccount)
	return ok && account.Name == "default"
}

func isReady(obj runtime.Object) bool {
	node, ok := obj.(*corev1.Node)
	if !ok {
		return false
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}
