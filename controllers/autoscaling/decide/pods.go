package decide

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcehelpers "k8s.io/component-helpers/resource"
)

var (
	errNoPods    = errors.New("no pods returned by selector while calculating replica count")
	errNoSamples = errors.New("did not receive metrics for targeted pods (pods might be unready)")
)

// census says which pods a metric counts.
type census struct {
	counted map[string]int64 // samples of pods that count
	ready   int              // how many these are, and those of which nothing is known but the sample
	missing []string         // pods without a sample
	unready []string         // pods whose sample does not count yet
}

// count sorts the pods by what can be said of them. of is the resource that is measured, or empty.
func (c *calculation) count(of corev1.ResourceName) (census, error) {
	if len(c.observation.Pods) == 0 {
		return census{}, errNoPods
	}
	n := census{counted: map[string]int64{}}
	for name, sample := range c.metric.Pods {
		n.counted[name] = sample.Value
	}
	for _, pod := range c.observation.Pods {
		sample, measured := c.metric.Pods[pod.Name]
		switch {
		case pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed:
			delete(n.counted, pod.Name)
		case pod.Status.Phase == corev1.PodPending, measured && of == corev1.ResourceCPU && c.warmingUp(pod, sample):
			delete(n.counted, pod.Name)
			n.unready = append(n.unready, pod.Name)
		case !measured:
			n.missing = append(n.missing, pod.Name)
		default:
			n.ready++
		}
	}
	if len(n.counted) == 0 {
		return census{}, errNoSamples
	}
	return n, nil
}

// warmingUp tells whether a pod's CPU says nothing yet: programs need more while they start.
func (c *calculation) warmingUp(pod *corev1.Pod, sample Sample) bool {
	ready := readiness(pod)
	if ready == nil || pod.Status.StartTime == nil {
		return true
	}
	started, since := pod.Status.StartTime.Time, ready.LastTransitionTime.Time
	if started.Add(c.settings.CPUInitialization).After(c.observation.Now) {
		return ready.Status == corev1.ConditionFalse || sample.At.Before(since.Add(sample.Window))
	}
	return ready.Status == corev1.ConditionFalse && started.Add(c.settings.InitialReadiness).After(since)
}

func readiness(pod *corev1.Pod) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == corev1.PodReady {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// runningAndReady is how many pods do their work.
func (c *calculation) runningAndReady() (n int, err error) {
	if len(c.observation.Pods) == 0 {
		return 0, fmt.Errorf("unable to calculate ready pods: %w", errNoPods)
	}
	for _, pod := range c.observation.Pods {
		if ready := readiness(pod); pod.Status.Phase == corev1.PodRunning && ready != nil && ready.Status == corev1.ConditionTrue {
			n++
		}
	}
	return n, nil
}

// byPods is the number of replicas that samples ask for. ratio says how far samples are from the target, and assumed
// is the use of a pod without a sample when the others use too little.
func (c *calculation) byPods(n census, ratio func(samples map[string]int64) (float64, error), assumed func(pod string) int64) (int32, error) {
	current := c.observation.Scale.Spec.Replicas
	first, err := ratio(n.counted)
	if err != nil {
		return 0, err
	}
	growing := first > 1 && len(n.unready) > 0
	if !growing && len(n.missing) == 0 {
		if c.tolerance.hold(first) {
			return current, nil
		}
		return toReplicas(math.Ceil(first * float64(n.ready))), nil
	}
	// What is not known is taken for what makes the change smaller.
	samples := maps.Clone(n.counted)
	for _, pod := range n.missing {
		switch {
		case first < 1:
			samples[pod] = assumed(pod)
		case first > 1:
			samples[pod] = 0
		}
	}
	if growing {
		for _, pod := range n.unready {
			samples[pod] = 0
		}
	}
	second, err := ratio(samples)
	if err != nil {
		return 0, err
	}
	replicas := toReplicas(math.Ceil(second * float64(len(samples))))
	turned := first < 1 && second > 1 || first > 1 && second < 1
	against := second < 1 && replicas > current || second > 1 && replicas < current
	if c.tolerance.hold(second) || turned || against {
		return current, nil
	}
	return replicas, nil
}

// requests are what pods ask for of a resource, in thousandths, of one container or of all.
func requests(pods []*corev1.Pod, container string, of corev1.ResourceName) (map[string]int64, error) {
	all := make(map[string]int64, len(pods))
	for _, pod := range pods {
		request, err := requestOf(pod, container, of)
		if err != nil {
			return nil, err
		}
		all[pod.Name] = request
	}
	return all, nil
}

func requestOf(pod *corev1.Pod, container string, of corev1.ResourceName) (int64, error) {
	if container == "" && resourcehelpers.IsPodLevelRequestsSet(pod) {
		whole := resourcehelpers.PodRequests(pod, resourcehelpers.PodResourcesOptions{})
		request, ok := whole[of]
		if !ok {
			return 0, fmt.Errorf("missing pod-level request for %s in Pod %s", of, pod.Name)
		}
		return request.MilliValue(), nil
	}
	var sum int64
	found := container == ""
	for _, c := range workers(pod) {
		if container != "" && container != c.Name {
			continue
		}
		request, ok := c.Resources.Requests[of]
		if !ok {
			return 0, fmt.Errorf("missing request for %s in container %s of Pod %s", of, c.Name, pod.Name)
		}
		sum += request.MilliValue()
		found = true
	}
	if !found {
		return 0, fmt.Errorf("container %s not found in Pod %s", container, pod.Name)
	}
	return sum, nil
}

// workers are the containers that run as long as the pod does, sidecars last.
func workers(pod *corev1.Pod) []corev1.Container {
	containers := slices.Clone(pod.Spec.Containers)
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(containers, c)
		}
	}
	return containers
}
