package env

import "strings"

// Expand replaces $(NAME) by what lookup finds, leaves an unknown $(NAME) as it stands, and turns $$
// into $ ("$$(NAME)" is how to write a literal $(NAME)). Any other $ is itself.
func Expand(input string, lookup func(name string) (string, bool)) string {
	if !strings.Contains(input, "$") {
		return input
	}
	var out strings.Builder
	for i := 0; i < len(input); i++ {
		if input[i] != '$' || i+1 == len(input) {
			out.WriteByte(input[i])
			continue
		}
		switch input[i+1] {
		case '$':
			out.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(input[i+2:], ')')
			if end < 0 {
				out.WriteString("$(")
				i++
				continue
			}
			name := input[i+2 : i+2+end]
			if value, found := lookup(name); found {
				out.WriteString(value)
			} else {
				out.WriteString("$(" + name + ")")
			}
			i += 2 + end
		default:
			out.WriteByte('$')
		}
	}
	return out.String()
}

// ExpandAll expands each of a list, as commands and arguments are.
func ExpandAll(inputs []string, lookup func(name string) (string, bool)) []string {
	if len(inputs) == 0 {
		return nil
	}
	out := make([]string, len(inputs))
	for i, input := range inputs {
		out[i] = Expand(input, lookup)
	}
	return out
}

// Lookup finds a name in the first of the maps that has it. The maps may grow meanwhile.
func Lookup(maps ...map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, m := range maps {
			if value, found := m[name]; found {
				return value, true
			}
		}
		return "", false
	}
}
