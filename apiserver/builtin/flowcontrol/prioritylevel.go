package flowcontrol

import (
	"fmt"
	"math"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

type level = flowcontrolv1.PriorityLevelConfiguration

func priorityLevels() *resource.Resource {
	queuing := flowcontrolv1.QueuingConfiguration{}
	return resource.Define[flowcontrolv1.PriorityLevelConfigurationList](resource.Definition[level]{
		Group: group, Version: "v1", Kind: "PriorityLevelConfiguration", Plural: "prioritylevelconfigurations", Older: []string{"v1beta3"},
		ClusterScoped: true,
		Default:       defaultLevel,
		Prepare: func(l, old *level) {
			l.Status = flowcontrolv1.PriorityLevelConfigurationStatus{}
			if old != nil {
				l.Status = *old.Status.DeepCopy()
			}
		},
		Validate:   validateLevel,
		Generation: func(l, old *level) bool { return !equality.Semantic.DeepEqual(l.Spec, old.Spec) },
		Columns: []resource.Column[*level]{
			resource.NameColumn[*level](),
			table.Text("Type", table.Doc(flowcontrolv1.PriorityLevelConfigurationSpec{}, "type"), func(l *level) string { return string(l.Spec.Type) }),
			limitColumn("NominalConcurrencyShares", table.Doc(flowcontrolv1.LimitedPriorityLevelConfiguration{}, "nominalConcurrencyShares"), func(l *level) *int32 {
				if l.Spec.Limited == nil {
					return nil
				}
				return ptr.To(ptr.Deref(l.Spec.Limited.NominalConcurrencyShares, 0))
			}),
			limitColumn("Queues", table.Doc(queuing, "queues"), ofQueuing(func(q *flowcontrolv1.QueuingConfiguration) int32 { return q.Queues })),
			limitColumn("HandSize", table.Doc(queuing, "handSize"), ofQueuing(func(q *flowcontrolv1.QueuingConfiguration) int32 { return q.HandSize })),
			limitColumn("QueueLengthLimit", table.Doc(queuing, "queueLengthLimit"), ofQueuing(func(q *flowcontrolv1.QueuingConfiguration) int32 { return q.QueueLengthLimit })),
			resource.AgeColumn[*level](),
		},
		Subresources: []resource.Subresource[level]{{
			Name: "status", View: true,
			Prepare: func(l, old *level) {
				l.Spec = *old.Spec.DeepCopy()
				metav1.ResetObjectMetaForStatus(l, old)
			},
			Reset: []string{"spec", "metadata"},
			Validate: func(l, _ *level) field.ErrorList {
				return validateConditions(l.Status.Conditions, func(c flowcontrolv1.PriorityLevelConfigurationCondition) string { return string(c.Type) })
			},
		}},
	})
}

// limitColumn is a number, or "<none>" where there is no limit.
func limitColumn(name, description string, value func(*level) *int32) resource.Column[*level] {
	return resource.Column[*level]{Name: name, Type: "string", Description: description, Value: func(l *level) any {
		if n := value(l); n != nil {
			return int64(*n)
		}
		return "<none>"
	}}
}

func ofQueuing(value func(*flowcontrolv1.QueuingConfiguration) int32) func(*level) *int32 {
	return func(l *level) *int32 {
		if l.Spec.Limited == nil || l.Spec.Limited.LimitResponse.Queuing == nil {
			return nil
		}
		return ptr.To(value(l.Spec.Limited.LimitResponse.Queuing))
	}
}

func defaultLevel(l *level) {
	if e := l.Spec.Exempt; e != nil {
		setDefault(&e.NominalConcurrencyShares, 0)
		setDefault(&e.LendablePercent, 0)
	}
	limited := l.Spec.Limited
	if limited == nil {
		return
	}
	setDefault(&limited.NominalConcurrencyShares, 30)
	setDefault(&limited.LendablePercent, 0)
	q := limited.LimitResponse.Queuing
	if q == nil {
		return
	}
	for _, f := range []struct {
		field *int32
		value int32
	}{{&q.HandSize, 8}, {&q.Queues, 64}, {&q.QueueLengthLimit, 50}} {
		if *f.field == 0 {
			*f.field = f.value
		}
	}
}

func setDefault(field **int32, value int32) {
	if *field == nil {
		*field = &value
	}
}

func validateLevel(l, _ *level) field.ErrorList {
	at, spec := field.NewPath("spec"), &l.Spec
	var errs field.ErrorList
	exempt := spec.Type == flowcontrolv1.PriorityLevelEnablementExempt
	if exempt != (l.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt) {
		errs = append(errs, field.Invalid(at.Child("type"), spec.Type, "must be 'Exempt' if and only if `name` is 'exempt'"))
	}
	errs = append(errs, check.OneOf(spec.Type, at.Child("type"), flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited)...)
	switch {
	case exempt && spec.Limited != nil:
		errs = append(errs, field.Forbidden(at.Child("limited"), "must be nil if the type is not Limited"))
	case spec.Type == flowcontrolv1.PriorityLevelEnablementLimited && spec.Exempt != nil:
		errs = append(errs, field.Forbidden(at.Child("exempt"), "must be nil if the type is Limited"))
	}
	switch {
	case exempt && spec.Exempt != nil:
		errs = append(errs, validateShares(spec.Exempt.NominalConcurrencyShares, spec.Exempt.LendablePercent, at.Child("exempt"))...)
	case spec.Type == flowcontrolv1.PriorityLevelEnablementLimited && spec.Limited == nil:
		errs = append(errs, field.Required(at.Child("limited"), "must not be empty when type is Limited"))
	case spec.Type == flowcontrolv1.PriorityLevelEnablementLimited:
		errs = append(errs, validateLimited(spec.Limited, at.Child("limited"))...)
	}
	return append(errs, validateFixed(l, at)...)
}

// validateFixed keeps the two levels without which requests would have nowhere
// to go as they are.
func validateFixed(l *level, at *field.Path) field.ErrorList {
	for _, fixed := range bootstrap.MandatoryPriorityLevelConfigurations {
		if fixed.Name != l.Name {
			continue
		}
		have, except := l.Spec.DeepCopy(), ""
		if l.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt {
			have.Exempt, except = fixed.Spec.Exempt, " except the 'spec.exempt' field"
		}
		if !equality.Semantic.DeepEqual(*have, fixed.Spec) {
			return field.ErrorList{field.Invalid(at, l.Spec, fmt.Sprintf("spec of '%s'%s must equal the fixed value", l.Name, except))}
		}
	}
	return nil
}

func validateShares(shares, lendable *int32, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if shares != nil && *shares < 0 {
		errs = append(errs, field.Invalid(at.Child("nominalConcurrencyShares"), *shares, "must be a non-negative integer"))
	}
	if lendable != nil && (*lendable < 0 || *lendable > 100) {
		errs = append(errs, field.Invalid(at.Child("lendablePercent"), *lendable, "must be between 0 and 100, inclusive"))
	}
	return errs
}

func validateLimited(l *flowcontrolv1.LimitedPriorityLevelConfiguration, at *field.Path) field.ErrorList {
	errs := validateShares(l.NominalConcurrencyShares, l.LendablePercent, at)
	if b := l.BorrowingLimitPercent; b != nil && *b < 0 {
		errs = append(errs, field.Invalid(at.Child("borrowingLimitPercent"), *b, "if specified, must be a non-negative integer"))
	}
	response, path := l.LimitResponse, at.Child("limitResponse")
	errs = append(errs, check.OneOf(response.Type, path.Child("type"), flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject)...)
	switch {
	case response.Type == flowcontrolv1.LimitResponseTypeReject && response.Queuing != nil:
		errs = append(errs, field.Forbidden(path.Child("queuing"), "must be nil if limited.limitResponse.type is not Limited"))
	case response.Type == flowcontrolv1.LimitResponseTypeQueue && response.Queuing == nil:
		errs = append(errs, field.Required(path.Child("queuing"), "must not be empty if limited.limitResponse.type is Limited"))
	case response.Type == flowcontrolv1.LimitResponseTypeQueue:
		errs = append(errs, validateQueuing(response.Queuing, path.Child("queuing"))...)
	}
	return errs
}

const (
	maxQueues   = 10_000_000
	maxHashBits = 60 // what a 64-bit hash gives the choice of queues
)

func validateQueuing(q *flowcontrolv1.QueuingConfiguration, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if q.QueueLengthLimit <= 0 {
		errs = append(errs, field.Invalid(at.Child("queueLengthLimit"), q.QueueLengthLimit, "must be positive"))
	}
	switch {
	case q.Queues <= 0:
		errs = append(errs, field.Invalid(at.Child("queues"), q.Queues, "must be positive"))
	case q.Queues > maxQueues:
		errs = append(errs, field.Invalid(at.Child("queues"), q.Queues, fmt.Sprintf("must not be greater than %d", maxQueues)))
	}
	hand := at.Child("handSize")
	switch {
	case q.HandSize <= 0:
		errs = append(errs, field.Invalid(hand, q.HandSize, "must be positive"))
	case q.HandSize > q.Queues:
		errs = append(errs, field.Invalid(hand, q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues)))
	case entropyBits(q.Queues, q.HandSize) > maxHashBits:
		errs = append(errs, field.Invalid(hand, q.HandSize, fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d", q.Queues, q.HandSize, maxHashBits)))
	}
	return errs
}

// entropyBits is how many bits of a hash deal a hand from a deck of queues.
func entropyBits(queues, hand int32) int {
	return int(math.Ceil(math.Log2(float64(queues)) * float64(hand)))
}
