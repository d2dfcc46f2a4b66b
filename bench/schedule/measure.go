package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	toolswatch "k8s.io/client-go/tools/watch"

	"github.com/skiff-k8s/skiff/bench/rig"
)

const (
	// space is the namespace of all pods.
	space = "schedule"
	// urgent is the priority class of pods that preempt.
	urgent = "urgent"
	// clients is how many objects are made at once.
	clients = 16
	// patience is how long the pods of a workload may take.
	patience = 10 * time.Minute
	// churnPause is how long what comes and goes stays.
	churnPause = 200 * time.Millisecond
)

// result is how a scheduler did.
type result struct {
	pods int
	took time.Duration // from the first binding, or the first pod that was taken off its node, to the last binding
	cpu  time.Duration // of scheduler and API server meanwhile, from the start of the scheduler
}

func (r result) rate() float64 { return float64(r.pods-1) / r.took.Seconds() }

// measured is a workload on an API server.
type measured struct {
	config
	workload
	rig *rig.Rig
}

func (m measured) measure(ctx context.Context, startScheduler func() error) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	measuredPods := m.pods / max(m.part, 1)
	if err := m.fill(ctx, measuredPods); err != nil {
		return result{}, err
	}
	before, err := m.rig.Usage()
	if err != nil {
		return result{}, err
	}
	if err := startScheduler(); err != nil {
		return result{}, err
	}
	churning, stop := context.WithCancel(ctx)
	var churn sync.WaitGroup
	var churnErr error
	if m.churn {
		churn.Go(func() { churnErr = m.stirUp(churning) })
	}
	first, last, err := m.awaitBound(ctx, measuredPods)
	stop()
	churn.Wait()
	switch {
	case err != nil:
		return result{}, err
	case churnErr != nil:
		return result{}, churnErr
	}
	after, err := m.rig.Usage()
	return result{pods: measuredPods, took: last.Sub(first), cpu: after.CPU - before.CPU}, err
}

// fill makes the nodes, the pods that are on them from the start, and those that are to be placed.
func (m measured) fill(ctx context.Context, measuredPods int) error {
	api := m.rig.Client
	if _, err := api.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: space}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: urgent}, Value: 1000}
	if _, err := api.SchedulingV1().PriorityClasses().Create(ctx, class, metav1.CreateOptions{}); err != nil {
		return err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}} // there is no controller for it
	if _, err := api.CoreV1().ServiceAccounts(space).Create(ctx, account, metav1.CreateOptions{}); err != nil {
		return err
	}
	err := atOnce(m.nodes, func(i int) error {
		_, err := api.CoreV1().Nodes().Create(ctx, newNode(i), metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	if err := m.untaint(ctx); err != nil {
		return err
	}
	there := measuredPods
	if m.beforeEach > 0 {
		there = m.beforeEach * m.nodes
	}
	err = atOnce(there, func(i int) error {
		p := newPod(fmt.Sprint("before-", i), "before", m.before)
		p.Spec.NodeName = fmt.Sprint("node-", i%m.nodes)
		_, err := api.CoreV1().Pods(space).Create(ctx, p, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	return atOnce(measuredPods, func(i int) error {
		_, err := api.CoreV1().Pods(space).Create(ctx, newPod(fmt.Sprint("pod-", i), "measured", m.pod), metav1.CreateOptions{})
		return err
	})
}

// untaint takes off what a new node has until a controller has seen that it is ready.
func (m measured) untaint(ctx context.Context) error {
	return atOnce(m.nodes, func(i int) error {
		_, err := m.rig.Client.CoreV1().Nodes().Patch(ctx, fmt.Sprint("node-", i), types.MergePatchType, []byte(`{"spec":{"taints":null}}`), metav1.PatchOptions{})
		return err
	})
}

// atOnce calls do for 0 to n-1, some at a time, and returns the first error.
func atOnce(n int, do func(i int) error) error {
	var group sync.WaitGroup
	var once sync.Once
	var first error
	next := make(chan int)
	for range clients {
		group.Go(func() {
			for i := range next {
				if err := do(i); err != nil {
					once.Do(func() { first = err })
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	group.Wait()
	return first
}

// awaitBound returns when all pods that are measured are bound: when the scheduler began, by binding a pod or by taking one off its
// node, and when the last was bound.
func (m measured) awaitBound(ctx context.Context, pods int) (first, last time.Time, err error) {
	bound := make(map[types.UID]bool)
	source := cache.NewListWatchFromClient(m.rig.Client.CoreV1().RESTClient(), "pods", space, fields.Everything())
	_, err = toolswatch.UntilWithSync(ctx, source, &corev1.Pod{}, nil, func(e watch.Event) (bool, error) {
		pod, ok := e.Object.(*corev1.Pod)
		if !ok {
			return false, fmt.Errorf("%v", e.Object)
		}
		if e.Type == watch.Deleted && first.IsZero() {
			first = time.Now()
		}
		if pod.Spec.NodeName == "" || pod.Labels["app"] != "measured" || bound[pod.UID] {
			return false, nil
		}
		bound[pod.UID] = true
		last = time.Now()
		if first.IsZero() {
			first = last
		}
		return len(bound) == pods, nil
	})
	if err != nil {
		return first, last, fmt.Errorf("%d of %d pods are bound: %w", len(bound), pods, err)
	}
	return first, last, nil
}

// stirUp has a node, a Service and a pod that fits nowhere come and go until ctx ends.
func (m measured) stirUp(ctx context.Context) error {
	api := m.rig.Client.CoreV1()
	for i := 0; ; i++ {
		node, pod := newNode(m.nodes+i), newPod(fmt.Sprint("churn-", i), "churn", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources = requests("100", "500Mi")
		})
		service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: node.Name}, Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "churn"}, Ports: []corev1.ServicePort{{Port: 80}},
		}}
		steps := []func() error{
			func() error { _, err := api.Nodes().Create(ctx, node, metav1.CreateOptions{}); return err },
			func() error { _, err := api.Services(space).Create(ctx, service, metav1.CreateOptions{}); return err },
			func() error { _, err := api.Pods(space).Create(ctx, pod, metav1.CreateOptions{}); return err },
			func() error { time.Sleep(churnPause); return nil },
			func() error { return api.Pods(space).Delete(ctx, pod.Name, metav1.DeleteOptions{}) },
			func() error { return api.Services(space).Delete(ctx, service.Name, metav1.DeleteOptions{}) },
			func() error { return api.Nodes().Delete(ctx, node.Name, metav1.DeleteOptions{}) },
		}
		for _, step := range steps {
			err := step()
			switch {
			case ctx.Err() != nil:
				return nil
			case err != nil && !apierrors.IsNotFound(err):
				return err
			}
		}
	}
}
