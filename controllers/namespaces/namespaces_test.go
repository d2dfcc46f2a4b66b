package namespaces

import (
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var now = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func TestConditions(t *testing.T) {
	c := &content{
		discovery:  errors.New("group gone"),
		failures:   []error{errors.New("b"), errors.New("a")},
		remaining:  map[schema.GroupVersionResource]int{{Version: "v1", Resource: "pods"}: 2, {Group: "apps", Version: "v1", Resource: "deployments"}: 1},
		finalizers: map[string]int{"example.com/x": 2},
	}
	want := []struct {
		kind    corev1.NamespaceConditionType
		status  corev1.ConditionStatus
		message string
	}{
		{corev1.NamespaceDeletionDiscoveryFailure, corev1.ConditionTrue, "group gone"},
		{corev1.NamespaceDeletionGVParsingFailure, corev1.ConditionFalse, "All legacy kube types successfully parsed"},
		{corev1.NamespaceDeletionContentFailure, corev1.ConditionTrue, "Failed to delete all resource types, 2 remaining: a, b"},
		{corev1.NamespaceContentRemaining, corev1.ConditionTrue, "Some resources are remaining: deployments.apps has 1 resource instances, pods. has 2 resource instances"},
		{corev1.NamespaceFinalizersRemaining, corev1.ConditionTrue, "Some content in the namespace has finalizers remaining: example.com/x in 2 resource instances"},
	}
	got := c.conditions()
	for i, w := range want {
		if got[i].Type != w.kind || got[i].Status != w.status || got[i].Message != w.message {
			t.Errorf("condition %d: got %s %s %q, want %s %s %q", i, got[i].Type, got[i].Status, got[i].Message, w.kind, w.status, w.message)
		}
	}
}

func TestMergeConditionsKeepsTransitionTimes(t *testing.T) {
	before := metav1.NewTime(now.Add(-time.Hour))
	has := []corev1.NamespaceCondition{
		{Type: "Other", Status: corev1.ConditionTrue, LastTransitionTime: before},
		{Type: "Same", Status: corev1.ConditionTrue, Message: "old", LastTransitionTime: before},
		{Type: "Turned", Status: corev1.ConditionTrue, LastTransitionTime: before},
	}
	got := mergeConditions(has, []corev1.NamespaceCondition{{Type: "Same", Status: corev1.ConditionTrue, Message: "new"}, {Type: "Turned", Status: corev1.ConditionFalse}, {Type: "New"}}, now)
	want := map[corev1.NamespaceConditionType]time.Time{"Other": before.Time, "Same": before.Time, "Turned": now, "New": now}
	if len(got) != len(want) {
		t.Fatalf("got %d conditions, want %d", len(got), len(want))
	}
	for _, c := range got {
		if !c.LastTransitionTime.Time.Equal(want[c.Type]) {
			t.Errorf("%s: got transition at %s, want %s", c.Type, c.LastTransitionTime, want[c.Type])
		}
	}
}

func TestWaitFor(t *testing.T) {
	meta := func(change func(*metav1.PartialObjectMetadata)) []metav1.PartialObjectMetadata {
		var m metav1.PartialObjectMetadata
		change(&m)
		return []metav1.PartialObjectMetadata{m}
	}
	other := schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	for _, test := range []struct {
		name string
		gvr  schema.GroupVersionResource
		left []metav1.PartialObjectMetadata
		want time.Duration
	}{
		{"slow", other, meta(func(*metav1.PartialObjectMetadata) {}), time.Second},
		{"a finalizer", other, meta(func(m *metav1.PartialObjectMetadata) { m.Finalizers = []string{"x"} }), finalizerWait / 2},
		{"a pod's grace", podsResource, meta(func(m *metav1.PartialObjectMetadata) {
			m.DeletionTimestamp = &metav1.Time{Time: now.Add(30 * time.Second)}
		}), 31 * time.Second},
	} {
		if got := waitFor(test.gvr, test.left, now); got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
	}
}
