package plugin

import (
	"math"

	corev1 "k8s.io/api/core/v1"
)

// resourcesFit keeps the sum of requests within what a node has to give, and
// prefers nodes with much left.
func resourcesFit(pod *Pod, s *Snapshot) Check {
	return Check{
		Filter: func(n *Node) *Reason { return lacking(pod, n, s.Devices) },
		Score: func(n *Node) int64 {
			var sum, counted int64
			add := func(total, used int64) {
				if total > 0 {
					sum += max(0, total-used) * MaxScore / total
					counted++
				}
			}
			add(n.allocatable.cpu, n.Apparent.cpu+pod.Apparent.cpu)
			add(n.allocatable.memory, n.Apparent.memory+pod.Apparent.memory)
			if counted == 0 {
				return 0
			}
			return sum / counted
		},
	}
}

// lacking says which requests of pod n cannot meet. Those that devices may meet are another rule's.
func lacking(pod *Pod, n *Node, d Devices) *Reason {
	request, free := &pod.Requests, &n.allocatable
	used := &n.Requested
	if len(request.other) == 0 && request.pods == 0 && int64(len(n.Pods)) < free.pods &&
		(request.cpu == 0 || request.cpu <= free.cpu-used.cpu) &&
		(request.memory == 0 || request.memory <= free.memory-used.memory) &&
		(request.storage == 0 || request.storage <= free.storage-used.storage) {
		return nil
	}
	return missing(pod, n, d)
}

// missing is lacking, for any pod.
func missing(pod *Pod, n *Node, d Devices) *Reason {
	var reason Reason
	if int64(len(n.Pods)+1) > n.allocatable.pods {
		reason.Texts = append(reason.Texts, "Too many pods")
	}
	check := func(name corev1.ResourceName, request int64) {
		total := n.allocatable.of(name)
		if request == 0 || request <= total-n.Requested.of(name) || d.ByDevices(name, total) {
			return
		}
		reason.Texts = append(reason.Texts, "Insufficient "+string(name))
		reason.Final = reason.Final || request > total // it is too large for the node when empty, too
	}
	check(corev1.ResourceCPU, pod.Requests.cpu)
	check(corev1.ResourceMemory, pod.Requests.memory)
	check(corev1.ResourceEphemeralStorage, pod.Requests.storage)
	check(corev1.ResourcePods, pod.Requests.pods)
	for name, request := range pod.Requests.other {
		check(name, request)
	}
	if len(reason.Texts) == 0 {
		return nil
	}
	return &reason
}

// balancedAllocation prefers nodes that the pod would bring nearer to using up
// cpu and memory at the same rate. A pod that asks for neither changes nothing.
func balancedAllocation(pod *Pod, _ *Snapshot) Check {
	if pod.Requests.cpu <= 0 && pod.Requests.memory <= 0 {
		return Check{}
	}
	return Check{Score: func(n *Node) int64 {
		with := balance(&n.allocatable, n.Requested.cpu+pod.Requests.cpu, n.Requested.memory+pod.Requests.memory)
		return MaxScore/2 + (MaxScore/2+with-n.balance)/2
	}}
}

// balance is MaxScore if equal shares of cpu and memory are requested of what there is.
func balance(total *Resources, cpu, memory int64) int64 {
	if total.cpu <= 0 || total.memory <= 0 {
		return MaxScore // there are no two to compare
	}
	a := min(1, float64(cpu)/float64(total.cpu))
	b := min(1, float64(memory)/float64(total.memory))
	mean := a/2 + b/2
	deviation := math.Sqrt((a-mean)*(a-mean)/2 + (b-mean)*(b-mean)/2)
	return int64((1 - deviation) * MaxScore)
}
