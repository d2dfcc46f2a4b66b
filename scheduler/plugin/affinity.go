package plugin

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
)

// term is one pod affinity or anti-affinity term, parsed.
type term struct {
	key               string // the same for terms that mean the same, whatever their weights
	pods              labels.Selector
	namespaces        sets.Set[string]
	namespaceSelector labels.Selector // nil: the namespaces are those that are named
	topologyKey       string
	weight            int64
}

func terms(owner *corev1.Pod, list []corev1.PodAffinityTerm) []term {
	parsed := make([]term, 0, len(list))
	for i := range list {
		parsed = append(parsed, newTerm(owner, &list[i], 0))
	}
	return parsed
}

func weightedTerms(owner *corev1.Pod, list []corev1.WeightedPodAffinityTerm) []term {
	parsed := make([]term, 0, len(list))
	for i := range list {
		parsed = append(parsed, newTerm(owner, &list[i].PodAffinityTerm, int64(list[i].Weight)))
	}
	return parsed
}

// newTerm parses a term of owner. Without namespaces and a namespace selector
// it speaks of owner's namespace. matchLabelKeys need no care here: the API
// server has merged them into the selector.
func newTerm(owner *corev1.Pod, t *corev1.PodAffinityTerm, weight int64) term {
	namespaces := sets.New(t.Namespaces...)
	if len(t.Namespaces) == 0 && t.NamespaceSelector == nil {
		namespaces.Insert(owner.Namespace)
	}
	parsed := term{pods: selector(t.LabelSelector), namespaces: namespaces, topologyKey: t.TopologyKey, weight: weight}
	of := "*"
	if t.NamespaceSelector != nil {
		parsed.namespaceSelector = selector(t.NamespaceSelector)
		of = parsed.namespaceSelector.String()
	}
	parsed.key = strings.Join([]string{t.TopologyKey, strings.Join(sets.List(namespaces), ","), of, parsed.pods.String()}, "|")
	return parsed
}

func (t *term) selects(pod *corev1.Pod, s *Snapshot) bool {
	if !t.pods.Matches(labels.Set(pod.Labels)) {
		return false
	}
	if t.namespaces.Has(pod.Namespace) {
		return true
	}
	return t.namespaceSelector != nil && t.namespaceSelector.Matches(s.NamespaceLabels(pod.Namespace))
}

// counts is how many pods the term selects in each of its domains.
func (t *term) counts(s *Snapshot) counted {
	if t.namespaceSelector != nil {
		return countPods(s, t.topologyKey, func(pod *Pod) bool { return t.selects(pod.Pod, s) })
	}
	list := make([]counted, 0, len(t.namespaces))
	for namespace := range t.namespaces {
		list = append(list, s.tally(tallied{namespace: namespace, leaving: true}, t.pods).domains(s.Cluster, t.topologyKey, nil, nil).counted)
	}
	if len(list) == 1 {
		return list[0]
	}
	sum := s.newCounted(t.topologyKey)
	for _, counts := range list {
		sum.total += counts.total
		for domain, n := range counts.amounts {
			sum.amounts[domain] += n
		}
	}
	return sum
}

// countPods counts pods in the domains of a label.
func countPods(s *Snapshot, key string, counts func(*Pod) bool) counted {
	sum := s.newCounted(key)
	for i, n := range s.Nodes {
		if sum.of[i] < 0 {
			continue
		}
		for _, pod := range n.Pods {
			if counts(pod) {
				sum.add(i, 1)
			}
		}
	}
	return sum
}

// interPodAffinity brings pods together and keeps them apart, by the terms of
// the pod and by those of the pods that are there already.
func interPodAffinity(pod *Pod, s *Snapshot) Check {
	own := wanted{pod: pod, attracted: attracted(pod, s)}
	for i := range pod.antiAffinity {
		own.unwanted = append(own.unwanted, pod.antiAffinity[i].counts(s))
	}
	occupied := func(c counted) bool { return c.total > 0 }
	own.startsGroup = own.attracted != nil && !slices.ContainsFunc(own.attracted, occupied) && selectedByAll(pod.affinity, pod.Pod, s)
	var repelled []counted
	preferences := ownPreferences(pod, s)
	for _, held := range s.held {
		switch {
		case !held.term.selects(pod.Pod, s):
		case held.kind.repels:
			repelled = append(repelled, held.counted)
		default:
			preferences = append(preferences, preference{held.counted, held.kind.weight})
		}
	}
	var check Check
	if len(repelled)+len(own.attracted)+len(own.unwanted) > 0 {
		check.Filter = func(n *Node) *Reason {
			if reason := own.meets(n); reason != nil {
				return reason
			}
			for i := range repelled {
				if pods, _ := repelled[i].at(n); pods > 0 {
					return repelledByPods
				}
			}
			return nil
		}
	}
	if len(preferences) > 0 {
		check.Score = func(n *Node) (sum int64) {
			for i := range preferences {
				pods, _ := preferences[i].at(n)
				sum += preferences[i].weight * pods
			}
			return sum
		}
		check.Normalize = stretch
	}
	return check
}

// Why nodes cannot take a pod because of pods that are there.
var (
	repelledByPods = because("node(s) didn't satisfy existing pods anti-affinity rules")
	notAttracted   = finallyBecause("node(s) didn't match pod affinity rules")
	notWanted      = because("node(s) didn't match pod anti-affinity rules")
)

// attracted is, for each term of the pod's required affinity, how many pods there are in each domain that meet all of
// the terms.
func attracted(pod *Pod, s *Snapshot) []counted {
	if len(pod.affinity) == 1 {
		return []counted{pod.affinity[0].counts(s)}
	}
	var list []counted
	for _, t := range pod.affinity {
		list = append(list, countPods(s, t.topologyKey, func(other *Pod) bool { return selectedByAll(pod.affinity, other.Pod, s) }))
	}
	return list
}

func selectedByAll(list []term, pod *corev1.Pod, s *Snapshot) bool {
	for i := range list {
		if !list[i].selects(pod, s) {
			return false
		}
	}
	return len(list) > 0
}

// wanted is what the required terms of a pod come to in a snapshot.
type wanted struct {
	pod                 *Pod
	attracted, unwanted []counted // by term, how many pods it selects in each domain
	// startsGroup: the first of a group of pods that want to be together may start it.
	startsGroup bool
}

func (w *wanted) meets(n *Node) *Reason {
	for i := range w.attracted {
		if pods, ok := w.attracted[i].at(n); !ok || pods == 0 && !w.startsGroup {
			return notAttracted
		}
	}
	for i := range w.unwanted {
		if pods, _ := w.unwanted[i].at(n); pods > 0 {
			return notWanted
		}
	}
	return nil
}

// preference is how much a pod likes, or dislikes, each pod of a domain, or is liked by it.
type preference struct {
	counted
	weight int64
}

// ownPreferences are those of the pod's terms that select any pod.
func ownPreferences(pod *Pod, s *Snapshot) (list []preference) {
	add := func(terms []term, sign int64) {
		for i := range terms {
			if counts := terms[i].counts(s); counts.total > 0 {
				list = append(list, preference{counts, sign * terms[i].weight})
			}
		}
	}
	add(pod.preferredAffinity, 1)
	add(pod.preferredAntiAffinity, -1)
	return list
}
