package admission

import (
	"context"
	"errors"
)

// alwaysAdmit has no say.
func alwaysAdmit() Plugin { return Plugin{Name: "AlwaysAdmit"} }

// alwaysDeny refuses every write.
func alwaysDeny() Plugin {
	refuse := func(_ context.Context, a *Attributes) error {
		return a.Forbidden(errors.New("admission control is denying all modifications"))
	}
	return Plugin{Name: "AlwaysDeny", Mutate: refuse, Validate: refuse}
}
