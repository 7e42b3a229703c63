package config

import "strings"

// suggest is a hint at the key that was meant: one that is spelled just so elsewhere, or almost so here.
func suggest(path, key string, s *shape) string {
	var elsewhere []string
	for _, f := range fields {
		if f.key == key || strings.HasSuffix(f.key, "."+key) {
			elsewhere = append(elsewhere, f.key)
		}
	}
	if len(elsewhere) > 0 {
		return "did you mean " + strings.Join(elsewhere, " or ") + "?"
	}
	best, distance := "", len(key)/3+1
	for _, name := range s.names() {
		if d := editDistance(strings.ToLower(key), name); d < distance || d == distance && best == "" {
			best, distance = name, d
		}
	}
	if best != "" {
		return "did you mean " + join(path, best) + "?"
	}
	return "keys here: " + strings.Join(s.names(), ", ")
}

// editDistance is Levenshtein's: how many letters must be put in, taken out or replaced.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
