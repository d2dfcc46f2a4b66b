package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// pods lets pods live: they are created, read, run, listed in all forms, and deleted.
func (l *load) pods(ctx context.Context) error {
	n := l.scale.podWorkers
	by := ", " + plural(n, "worker")
	limit := l.scale.limit
	l.scale.limit = time.Minute // lists are of all of them
	created, err := l.measure(ctx, "create pods"+by, n, l.scale.pods, func(ctx context.Context, worker, job int) error {
		_, err := l.client(worker).CoreV1().Pods(l.space).Create(ctx, pod(job), metav1.CreateOptions{})
		return err
	})
	l.scale.limit = limit
	if err != nil {
		return err
	}
	all := len(created.took)
	for _, step := range []struct {
		row string
		do  func(ctx context.Context, worker, job int) error
	}{
		{"get a pod", func(ctx context.Context, worker, job int) error {
			_, err := l.client(worker).CoreV1().Pods(l.space).Get(ctx, podName(job%all), metav1.GetOptions{})
			return err
		}},
		{"strategic patch of a pod's status", func(ctx context.Context, worker, job int) error {
			body, err := runningStatus(job)
			if err != nil {
				return err
			}
			_, err = l.client(worker).CoreV1().Pods(l.space).Patch(ctx, podName(job%all), types.StrategicMergePatchType, body, metav1.PatchOptions{}, "status")
			return err
		}},
	} {
		if _, err := l.measure(ctx, step.row+by, n, 20*all, step.do); err != nil {
			return err
		}
	}
	if err := l.lists(ctx, all); err != nil {
		return err
	}
	_, err = l.measure(ctx, "delete a pod"+by, n, all, func(ctx context.Context, worker, job int) error {
		return l.client(worker).CoreV1().Pods(l.space).Delete(ctx, podName(job), metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
	})
	return err
}

// runningStatus is what a kubelet says when a pod runs; each job says something else.
func runningStatus(job int) ([]byte, error) {
	at := metav1.NewTime(time.Unix(1_700_000_000+int64(job), 0))
	var conditions []v1.PodCondition
	for _, name := range []v1.PodConditionType{v1.PodInitialized, v1.PodReady, v1.ContainersReady, v1.PodScheduled} {
		conditions = append(conditions, v1.PodCondition{Type: name, Status: v1.ConditionTrue, LastTransitionTime: at})
	}
	return json.Marshal(map[string]any{"status": map[string]any{
		"phase": v1.PodRunning, "podIP": fmt.Sprintf("10.244.%d.%d", job/250%250, 1+job%250), "startTime": at, "conditions": conditions,
		"containerStatuses": []v1.ContainerStatus{{Name: "shop", Ready: true, RestartCount: int32(job), Image: "registry.example/shop/backend:1.42.0",
			State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: at}}}},
	}})
}

// lists reads all pods at once, consistently, in all forms, and a fiftieth of them by selectors. Answers are read but not
// decoded, which would take the client longer than the server.
func (l *load) lists(ctx context.Context, n int) error {
	const asProtobuf, asJSON = "application/vnd.kubernetes.protobuf", "application/json"
	for _, c := range []struct{ what, accept, encoding, selector, value string }{
		{"JSON", asJSON, "identity", "", ""},
		{"protobuf", asProtobuf, "identity", "", ""},
		{"protobuf, gzip", asProtobuf, "gzip", "", ""},
		{"table", "application/json;as=Table;v=v1;g=meta.k8s.io", "identity", "", ""},
		{"by label, protobuf", asProtobuf, "identity", "labelSelector", "shard=7"},
		{"by node, protobuf", asProtobuf, "identity", "fieldSelector", "spec.nodeName=node-7"},
	} {
		row, size := fmt.Sprintf("list of %d pods, %s, %s", n, c.what, plural(l.scale.listers, "worker")), make([]int, l.scale.listers)
		_, err := l.measure(ctx, row, l.scale.listers, 10000, func(ctx context.Context, worker, _ int) error {
			r := l.client(worker).CoreV1().RESTClient().Get().Namespace(l.space).Resource("pods").SetHeader("Accept", c.accept).SetHeader("Accept-Encoding", c.encoding)
			if c.selector != "" {
				r = r.Param(c.selector, c.value)
			}
			answer, err := r.DoRaw(ctx)
			size[worker] = len(answer)
			return err
		})
		if err != nil {
			return err
		}
		l.add(row+": size", mebibytes, float64(size[0])/(1<<20))
	}
	return nil
}
