package plugin

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// resourcesFit keeps the sum of requests within what a node has to give, and
// prefers nodes with much left.
func resourcesFit(pod *Pod, s *Snapshot) Check {
	return Check{
		Filter: func(n *Node) *Reason { return lacking(pod, n, s.Devices) },
		Score: func(n *Node) int64 {
			var sum, counted int64
			for _, name := range scored {
				if total := n.allocatable[name]; total > 0 {
					used := n.Apparent[name] + pod.Apparent[name]
					sum += max(0, total-used) * MaxScore / total
					counted++
				}
			}
			if counted == 0 {
				return 0
			}
			return sum / counted
		},
	}
}

// scored are the resources by which nodes are compared.
var scored = []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}

// lacking says which requests of pod n cannot meet. Those that devices may meet are another rule's.
func lacking(pod *Pod, n *Node, d Devices) *Reason {
	allocatable := n.allocatable
	var reason Reason
	if int64(len(n.Pods)+1) > allocatable[corev1.ResourcePods] {
		reason.Texts = append(reason.Texts, "Too many pods")
	}
	tooLargeForEmpty := false
	for name, request := range pod.Requests {
		if request == 0 || request <= allocatable[name]-n.Requested[name] || d.ByDevices(name, allocatable) {
			continue
		}
		reason.Texts = append(reason.Texts, "Insufficient "+string(name))
		tooLargeForEmpty = tooLargeForEmpty || request > allocatable[name]
	}
	if len(reason.Texts) == 0 {
		return nil
	}
	reason.Final = tooLargeForEmpty
	return &reason
}

// balancedAllocation prefers nodes that the pod would bring nearer to using up
// cpu and memory at the same rate. A pod that asks for neither changes nothing.
func balancedAllocation(pod *Pod, _ *Snapshot) Check {
	if !slices.ContainsFunc(scored, func(name corev1.ResourceName) bool { return pod.Requests[name] > 0 }) {
		return Check{}
	}
	return Check{Score: func(n *Node) int64 {
		with, without := balance(n, pod.Requests), balance(n, nil)
		return MaxScore/2 + (MaxScore/2+with-without)/2
	}}
}

// balance is MaxScore if equal shares of the scored resources of n are used when more is requested.
func balance(n *Node, more Resources) int64 {
	fractions := make([]float64, 0, 2)
	for _, name := range scored {
		if total := n.allocatable[name]; total > 0 {
			fractions = append(fractions, min(1, float64(n.Requested[name]+more[name])/float64(total)))
		}
	}
	return int64((1 - deviation(fractions)) * MaxScore)
}

// deviation is the standard deviation.
func deviation(values []float64) float64 {
	if len(values) < 2 {
		return 0
	}
	var mean, variance float64
	for _, v := range values {
		mean += v / float64(len(values))
	}
	for _, v := range values {
		variance += (v - mean) * (v - mean) / float64(len(values))
	}
	return math.Sqrt(variance)
}
