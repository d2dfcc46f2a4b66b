package batch

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
)

// Limits of the policies of a job.
const (
	maxFailureRules      = 20
	maxExitCodes         = 255
	maxConditionPatterns = 20
	maxSuccessRules      = 20
	maxSucceededIndexes  = 64 << 10 // bytes
)

// oneOf demands one of a few values, which are listed in the order given.
func oneOf[T ~string](value T, path *field.Path, allowed ...T) field.ErrorList {
	if slices.Contains(allowed, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, value, allowed)}
}

// required is oneOf with a message of its own where there is no value.
func required[T ~string](value T, path *field.Path, allowed ...T) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, fmt.Sprintf("valid values: %q", allowed))}
	}
	return oneOf(value, path, allowed...)
}

func validatePodFailurePolicy(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	rules := s.PodFailurePolicy.Rules
	if len(rules) > maxFailureRules {
		errs = append(errs, field.TooMany(path, len(rules), maxFailureRules))
	}
	names := make(map[string]bool)
	for _, c := range slices.Concat(s.Template.Spec.Containers, s.Template.Spec.InitContainers) {
		names[c.Name] = true
	}
	for i := range rules {
		errs = append(errs, validateFailureRule(s, &rules[i], path.Index(i), names)...)
	}
	return errs
}

func validateFailureRule(s *batchv1.JobSpec, rule *batchv1.PodFailurePolicyRule, path *field.Path, containers map[string]bool) field.ErrorList {
	var errs field.ErrorList
	action := path.Child("action")
	errs = append(errs, required(rule.Action, action, batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex,
		batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore)...)
	if rule.Action == batchv1.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Invalid(action, rule.Action, "requires the backoffLimitPerIndex to be set"))
	}
	if rule.OnExitCodes != nil {
		errs = append(errs, validateExitCodes(rule.OnExitCodes, path.Child("onExitCodes"), containers)...)
	}
	errs = append(errs, validateConditionPatterns(rule.OnPodConditions, path.Child("onPodConditions"))...)
	switch codes, conditions := rule.OnExitCodes != nil, len(rule.OnPodConditions) > 0; {
	case codes && conditions:
		errs = append(errs, field.Invalid(path, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
	case !codes && !conditions:
		errs = append(errs, field.Invalid(path, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
	}
	return errs
}

func validateExitCodes(r *batchv1.PodFailurePolicyOnExitCodesRequirement, path *field.Path, containers map[string]bool) field.ErrorList {
	errs := required(r.Operator, path.Child("operator"), batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)
	if r.ContainerName != nil && !containers[*r.ContainerName] {
		errs = append(errs, field.Invalid(path.Child("containerName"), *r.ContainerName, "must be one of the container or initContainer names in the pod template"))
	}
	values := path.Child("values")
	if len(r.Values) == 0 {
		errs = append(errs, field.Invalid(values, r.Values, "at least one value is required"))
	} else if len(r.Values) > maxExitCodes {
		errs = append(errs, field.TooMany(values, len(r.Values), maxExitCodes))
	}
	seen := make(map[int32]bool)
	for i, code := range r.Values {
		if r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && code == 0 {
			errs = append(errs, field.Invalid(values.Index(i), code, "must not be 0 for the In operator"))
		}
		if seen[code] {
			errs = append(errs, field.Duplicate(values.Index(i), code))
		}
		seen[code] = true
	}
	if !slices.IsSorted(r.Values) {
		errs = append(errs, field.Invalid(values, r.Values, "must be ordered"))
	}
	return errs
}

func validateConditionPatterns(patterns []batchv1.PodFailurePolicyOnPodConditionsPattern, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(patterns) > maxConditionPatterns {
		errs = append(errs, field.TooMany(path, len(patterns), maxConditionPatterns))
	}
	for i, p := range patterns {
		at := path.Index(i)
		for _, msg := range validation.IsQualifiedName(string(p.Type)) {
			errs = append(errs, field.Invalid(at.Child("type"), string(p.Type), msg))
		}
		errs = append(errs, required(p.Status, at.Child("status"), v1.ConditionFalse, v1.ConditionTrue, v1.ConditionUnknown)...)
	}
	return errs
}

func validateSuccessPolicy(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	if deref(s.CompletionMode) != batchv1.IndexedCompletion {
		return field.ErrorList{field.Invalid(path, podspec.Untagged(*s.SuccessPolicy), "requires indexed completion mode")}
	}
	var errs field.ErrorList
	rules, at := s.SuccessPolicy.Rules, path.Child("rules")
	if len(rules) == 0 {
		errs = append(errs, field.Required(at, "at least one rules must be specified when the successPolicy is specified"))
	}
	if len(rules) > maxSuccessRules {
		errs = append(errs, field.TooMany(at, len(rules), maxSuccessRules))
	}
	for i := range rules {
		errs = append(errs, validateSuccessRule(deref(s.Completions), &rules[i], at.Index(i))...)
	}
	return errs
}

func validateSuccessRule(completions int32, rule *batchv1.SuccessPolicyRule, path *field.Path) field.ErrorList {
	if rule.SucceededCount == nil && rule.SucceededIndexes == nil {
		return field.ErrorList{field.Required(path, "at least one of succeededCount or succeededIndexes must be specified")}
	}
	var errs field.ErrorList
	var total int32
	if rule.SucceededIndexes != nil {
		indexes := path.Child("succeededIndexes")
		if len(*rule.SucceededIndexes) > maxSucceededIndexes {
			errs = append(errs, field.TooLong(indexes, "", maxSucceededIndexes))
		}
		list, err := parseIndexes(*rule.SucceededIndexes, completions)
		if err != nil {
			errs = append(errs, field.Invalid(indexes, *rule.SucceededIndexes, fmt.Sprintf("error parsing succeededIndexes: %s", err)))
		}
		for _, r := range list {
			total += r.last - r.first + 1
		}
	}
	if rule.SucceededCount == nil {
		return errs
	}
	n, at := *rule.SucceededCount, path.Child("succeededCount")
	errs = append(errs, notNegative(rule.SucceededCount, at)...)
	if n > completions {
		errs = append(errs, field.Invalid(at, n, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", completions)))
	}
	if rule.SucceededIndexes != nil && n > total {
		errs = append(errs, field.Invalid(at, n, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", total)))
	}
	return errs
}

// indexRange is a range of completion indexes, ends included.
type indexRange struct{ first, last int32 }

// parseIndexes reads a list of indexes such as "1,3-5", which must rise and stay
// below completions. It returns nothing with an error.
func parseIndexes(text string, completions int32) ([]indexRange, error) {
	if text == "" {
		return nil, nil
	}
	var list []indexRange
	for part := range strings.SplitSeq(text, ",") {
		r, err := parseRange(part, completions)
		if err != nil {
			return nil, err
		}
		if n := len(list); n > 0 && list[n-1].last >= r.first {
			return nil, fmt.Errorf("non-increasing order, previous: %d, current: %d", list[n-1].last, r.first)
		}
		list = append(list, r)
	}
	return list, nil
}

func parseRange(text string, completions int32) (indexRange, error) {
	ends := strings.Split(text, "-")
	if len(ends) > 2 {
		return indexRange{}, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", text)
	}
	var values [2]int
	for i, end := range ends {
		n, err := strconv.Atoi(end)
		if err != nil {
			return indexRange{}, fmt.Errorf("cannot convert string to integer for index: %q", end)
		}
		if n >= int(completions) {
			return indexRange{}, fmt.Errorf("too large index: %q", end)
		}
		values[i] = n
	}
	if len(ends) == 1 {
		return indexRange{int32(values[0]), int32(values[0])}, nil
	}
	if values[0] >= values[1] {
		return indexRange{}, fmt.Errorf("non-increasing order, previous: %d, current: %d", values[0], values[1])
	}
	return indexRange{int32(values[0]), int32(values[1])}, nil
}

// overlap finds the first index in both lists. Parts that are no ranges are
// passed over: they are reported where the format is checked.
func overlap(a, b string, completions int32) (index int32, found bool) {
	if a == "" || b == "" {
		return 0, false
	}
	ranges := func(text string) []indexRange {
		var list []indexRange
		for part := range strings.SplitSeq(text, ",") {
			if r, err := parseRange(part, completions); err == nil {
				list = append(list, r)
			}
		}
		return list
	}
	x, y := ranges(a), ranges(b)
	for len(x) > 0 && len(y) > 0 {
		switch {
		case x[0].first <= y[0].last && y[0].first <= x[0].last:
			return max(x[0].first, y[0].first), true
		case x[0].first <= y[0].first:
			x = x[1:]
		default:
			y = y[1:]
		}
	}
	return 0, false
}
