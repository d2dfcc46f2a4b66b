package decide

import (
	"math"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// History is what earlier decisions leave behind. Its zero value is that of a new autoscaler.
type History struct {
	Recommendations []Recommendation
	Ups, Downs      []Change
}

// Recommendation is what the metrics asked for at a time.
type Recommendation struct {
	Replicas int32
	At       time.Time
}

// Change is by how many replicas the target was scaled at a time.
type Change struct {
	Replicas int32
	At       time.Time
}

func (h History) clone() History {
	return History{slices.Clone(h.Recommendations), slices.Clone(h.Ups), slices.Clone(h.Downs)}
}

// recommend remembers what the metrics ask for now, and forgets what is older than any window.
func (h *History) recommend(replicas int32, now time.Time, longest time.Duration) {
	h.Recommendations = slices.DeleteFunc(h.Recommendations, func(r Recommendation) bool { return r.At.Before(now.Add(-longest)) })
	h.Recommendations = append(h.Recommendations, Recommendation{replicas, now})
}

// scaled remembers a change, for the policies that limit changes within a time.
func (h *History) scaled(behavior *autoscalingv2.HorizontalPodAutoscalerBehavior, before, after int32, now time.Time) {
	switch {
	case behavior == nil: // there are no policies
	case after > before:
		h.Ups = remember(h.Ups, behavior.ScaleUp, Change{after - before, now})
	default:
		h.Downs = remember(h.Downs, behavior.ScaleDown, Change{before - after, now})
	}
}

func remember(changes []Change, rules *autoscalingv2.HPAScalingRules, next Change) []Change {
	var longest time.Duration
	if rules != nil {
		for _, p := range rules.Policies {
			longest = max(longest, seconds(p.PeriodSeconds))
		}
	}
	return append(slices.DeleteFunc(changes, func(c Change) bool { return c.At.Before(next.At.Add(-longest)) }), next)
}

// within is the sum of changes within a period.
func within(period time.Duration, changes []Change, now time.Time) (replicas int32) {
	for _, c := range changes {
		if c.At.After(now.Add(-period)) {
			replicas += c.Replicas
		}
	}
	return replicas
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }

// tolerances are by how much a metric may be below and above its target.
type tolerances struct{ down, up float64 }

func (t tolerances) hold(ratio float64) bool { return 1-t.down <= ratio && ratio <= 1+t.up }

func (s Settings) tolerance(b *autoscalingv2.HorizontalPodAutoscalerBehavior) tolerances {
	t := tolerances{s.Tolerance, s.Tolerance}
	if b == nil {
		return t
	}
	if b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
		t.down = b.ScaleDown.Tolerance.AsApproximateFloat64()
	}
	if b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
		t.up = b.ScaleUp.Tolerance.AsApproximateFloat64()
	}
	return t
}

const (
	withinRange = "the desired count is within the acceptable range"
	tooMany     = "the desired replica count is more than the maximum replica count"
	tooFew      = "the desired replica count is less than the minimum replica count"
	tooFastUp   = "the desired replica count is increasing faster than the maximum scale rate"
	tooFastDown = "the desired replica count is decreasing faster than the maximum scale rate"

	lowestRecent  = "recent recommendations were lower than current one, applying the lowest recent recommendation"
	highestRecent = "recent recommendations were higher than current one, applying the highest recent recommendation"
)

// bounded is a number of replicas, and why it is not another one.
type bounded struct {
	replicas        int32
	reason, message string
}

// limit holds what the metrics ask for within windows, policies and bounds, and says so in the conditions.
func (s Settings) limit(d *Decision, asked, lowest int32) int32 {
	var steady, final bounded
	if d.spec.Behavior == nil {
		steady = s.steadyByDefault(d, asked)
		final = boundByDefault(d.before, steady.replicas, lowest, d.spec.MaxReplicas)
	} else {
		up, down := rulesOf(d.spec.Behavior)
		steady = s.steady(d, asked, up, down)
		final = bound(d, steady.replicas, lowest, up, down)
	}
	if steady.replicas == asked {
		steady.reason, steady.message = "ReadyForNewScale", "recommended size matches current size"
	}
	d.condition(autoscalingv2.AbleToScale, corev1.ConditionTrue, steady.reason, steady.message)
	limited := corev1.ConditionTrue
	if final.replicas == steady.replicas {
		limited = corev1.ConditionFalse
	}
	d.condition(autoscalingv2.ScalingLimited, limited, final.reason, final.message)
	return final.replicas
}

// steadyByDefault is the highest recent recommendation.
func (s Settings) steadyByDefault(d *Decision, asked int32) bounded {
	highest := asked
	for _, r := range d.History.Recommendations {
		if !r.At.Before(d.now.Add(-s.DownscaleStabilization)) {
			highest = max(highest, r.Replicas)
		}
	}
	d.History.recommend(asked, d.now, s.DownscaleStabilization)
	return bounded{highest, "ScaleDownStabilized", highestRecent}
}

// boundByDefault lets the number double at most, or grow to four.
func boundByDefault(before, wanted, lowest, highest int32) bounded {
	reason, message := "TooManyReplicas", tooMany
	if fastest := int32(min(max(2*int64(before), 4), math.MaxInt32)); highest > fastest {
		highest, reason, message = fastest, "ScaleUpLimit", tooFastUp
	}
	switch {
	case wanted < lowest:
		return bounded{lowest, "TooFewReplicas", tooFew}
	case wanted > highest:
		return bounded{highest, reason, message}
	}
	return bounded{wanted, "DesiredWithinRange", withinRange}
}

// rulesOf are the rules for both directions; what the server fills in is not counted on.
func rulesOf(b *autoscalingv2.HorizontalPodAutoscalerBehavior) (up, down autoscalingv2.HPAScalingRules) {
	return ptr.Deref(b.ScaleUp, autoscalingv2.HPAScalingRules{}), ptr.Deref(b.ScaleDown, autoscalingv2.HPAScalingRules{})
}

// steady moves the number towards what is asked for only as far as all recommendations of the windows agree.
func (s Settings) steady(d *Decision, asked int32, up, down autoscalingv2.HPAScalingRules) bounded {
	upWindow := seconds(ptr.Deref(up.StabilizationWindowSeconds, 0))
	downWindow := s.DownscaleStabilization
	if down.StabilizationWindowSeconds != nil {
		downWindow = seconds(*down.StabilizationWindowSeconds)
	}
	lowest, highest := asked, asked
	for _, r := range d.History.Recommendations {
		if r.At.After(d.now.Add(-upWindow)) {
			lowest = min(lowest, r.Replicas)
		}
		if r.At.After(d.now.Add(-downWindow)) {
			highest = max(highest, r.Replicas)
		}
	}
	d.History.recommend(asked, d.now, max(upWindow, downWindow))
	steady := min(max(d.before, lowest), highest)
	if asked >= d.before {
		return bounded{steady, "ScaleUpStabilized", lowestRecent}
	}
	return bounded{steady, "ScaleDownStabilized", highestRecent}
}

// bound holds the number within what the policies allow at this time, and within the bounds.
func bound(d *Decision, wanted, lowest int32, up, down autoscalingv2.HPAScalingRules) bounded {
	highest := d.spec.MaxReplicas
	switch {
	case wanted > d.before:
		reason, message := "TooManyReplicas", tooMany
		if fastest := max(d.before, fastestUp(d, up)); highest > fastest {
			highest, reason, message = fastest, "ScaleUpLimit", tooFastUp
		}
		if wanted > highest {
			return bounded{highest, reason, message}
		}
	case wanted < d.before:
		reason, message := "TooFewReplicas", tooFew
		if fastest := min(d.before, fastestDown(d, down)); lowest < fastest {
			lowest, reason, message = fastest, "ScaleDownLimit", tooFastDown
		}
		if wanted < lowest {
			return bounded{lowest, reason, message}
		}
	}
	return bounded{wanted, "DesiredWithinRange", withinRange}
}

// fastestUp is how high the policies let the number grow now.
func fastestUp(d *Decision, rules autoscalingv2.HPAScalingRules) int32 {
	low, high := d.allowed(rules, func(policy autoscalingv2.HPAScalingPolicy, start int32) int32 {
		if policy.Type == autoscalingv2.PercentScalingPolicy {
			return toReplicas(math.Ceil(float64(start) * (1 + float64(policy.Value)/100)))
		}
		return toReplicas(float64(start) + float64(policy.Value))
	})
	if takesLeast(rules) {
		return low
	}
	return high
}

// fastestDown is how low they let it fall.
func fastestDown(d *Decision, rules autoscalingv2.HPAScalingRules) int32 {
	low, high := d.allowed(rules, func(policy autoscalingv2.HPAScalingPolicy, start int32) int32 {
		if policy.Type == autoscalingv2.PercentScalingPolicy {
			return toReplicas(math.Trunc(float64(start) * (1 - float64(policy.Value)/100)))
		}
		return toReplicas(float64(start) - float64(policy.Value))
	})
	if takesLeast(rules) {
		return high
	}
	return low
}

// takesLeast tells whether of several policies that of the smallest change counts.
func takesLeast(rules autoscalingv2.HPAScalingRules) bool {
	return ptr.Deref(rules.SelectPolicy, autoscalingv2.MaxChangePolicySelect) == autoscalingv2.MinChangePolicySelect
}

// allowed are the lowest and the highest number that a policy lets be reached. A policy counts from the number of
// replicas at the start of its period.
func (d *Decision) allowed(rules autoscalingv2.HPAScalingRules, reach func(policy autoscalingv2.HPAScalingPolicy, start int32) int32) (low, high int32) {
	disabled := ptr.Deref(rules.SelectPolicy, autoscalingv2.MaxChangePolicySelect) == autoscalingv2.DisabledPolicySelect
	if disabled || len(rules.Policies) == 0 {
		return d.before, d.before
	}
	limits := make([]int32, len(rules.Policies))
	for i, policy := range rules.Policies {
		period := seconds(policy.PeriodSeconds)
		start := d.before - within(period, d.History.Ups, d.now) + within(period, d.History.Downs, d.now)
		limits[i] = reach(policy, start)
	}
	return slices.Min(limits), slices.Max(limits)
}

// toReplicas is a number of replicas, however large it is.
func toReplicas(n float64) int32 {
	switch {
	case math.IsNaN(n):
		return 0
	case n >= math.MaxInt32:
		return math.MaxInt32
	case n <= math.MinInt32:
		return math.MinInt32
	}
	return int32(n)
}
